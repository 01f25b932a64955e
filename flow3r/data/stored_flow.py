"""Flow of a dataset's own frames from a label store, for whatever crop of a frame is trained on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.clips import Part, Pool, draw_rows, parts_of
from flow3r.data.frame import Frame
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted
from flow3r.errors import LabelStoreError
from flow3r.geometry.camera import inside_image, pixel_grid
from flow3r.types import Flow


@dataclass(frozen=True)
class StoredPairs:
    """Labelled pairs of one segment, and the frames that they connect."""

    part: Part
    frames: list[int]  # of the segment, ascending
    rows: list[int]  # of its pairs, each once

    @property
    def indices(self) -> list[int]:
        """The frames in the sequence."""
        return [self.part.segment.indices[frame] for frame in self.frames]


class StoredFlow:
    """The labels of a store for sequences of posed images; `names` says which of them a source of the store is."""

    def __init__(self, store: LabelStore, names: Mapping[str, str]):
        self.store = store
        self._parts: dict[str, list[Part]] = {}
        for part in parts_of(segment for segment in store.segments() if segment.source in names):
            self._parts.setdefault(names[part.segment.source], []).append(part)

    def choose(self, sequence: str, wanted: Wanted, generator: torch.Generator) -> StoredPairs | None:
        """Frames of a sequence that labelled pairs connect, and pairs among them; None where there are not so many."""
        parts = [part for part in self._parts.get(sequence, ()) if part.connected >= wanted.views]
        return StoredPairs(*draw_rows(Pool(parts), wanted, generator)) if parts else None

    def read(
        self,
        chosen: StoredPairs,
        frames: list[Frame],
        view_from_original: Float[np.ndarray, "N 3 3"],
        size: tuple[int, int],
        count: int,
    ) -> Flow:
        """`count` of the chosen pairs (B = 1), repeated where they are fewer, for views of `frames` of `size` (H, W).

        Raises LabelStoreError where the frames are not those that were labelled.
        """
        segment = chosen.part.segment
        labelled = [segment.names[frame] for frame in chosen.frames]
        if [frame.name for frame in frames] != labelled:
            raise LabelStoreError(
                f"{self.store.folder}: {segment.source} has labels of {labelled[0]}..., its frames there are now "
                f"{frames[0].name}...: the dataset is not the one that was labelled; label it again"
            )
        rows = [chosen.rows[k % len(chosen.rows)] for k in range(count)]
        flow = self.store.flow(segment, rows)
        place = {frame: k for k, frame in enumerate(chosen.frames)}
        pairs = torch.tensor([[[place[i], place[j]] for i, j in flow.pairs[0].tolist()]])
        label_from_original = np.array([segment.model_from_original[frame] for frame in chosen.frames])
        label_from_view = torch.from_numpy(label_from_original @ np.linalg.inv(view_from_original)).float()
        return resample_flow(Flow(pairs, flow.displacement, flow.covisible), label_from_view, size)


def resample_flow(flow: Flow, label_from_view: Float[Tensor, "N 3 3"], size: tuple[int, int]) -> Flow:
    """Labelled flow (B = 1) between the frames of a grid as flow between N views of `size` (H, W) of these frames.

    `label_from_view` maps pixels of a view to those of the grid, by scale and shift. Flow is interpolated where all
    that is mixed is known, and else that of the nearest pixel; a pixel is covisible if at least half of what it mixes
    is, and its end lies in the target's view.
    """
    grid = pixel_grid(*size)
    source, target = (label_from_view[flow.pairs[0, :, k]][:, None, None] for k in (0, 1))  # P 1 1 3 3
    start = _moved(source, grid)
    known = (flow.covisible > 0).float()[0, :, None]
    displacement = flow.displacement[0].movedim(-1, 1) * known
    share = _sampled(known, start, "bilinear")
    mixed, nearest = (_sampled(displacement, start, mode) for mode in ("bilinear", "nearest"))
    moved = torch.where(share > 1 - 1e-4, mixed, nearest).movedim(1, -1)
    known_here = (share[:, 0] >= 0.5) & (_sampled(known, start, "nearest")[:, 0] > 0)
    covisible = torch.where(known_here, _sampled(flow.covisible[0, :, None], start, "nearest")[:, 0], 0.0)
    end = _moved(torch.linalg.inv(target), start + moved)
    covisible = covisible * inside_image(end, *size)
    return Flow(flow.pairs, torch.where(covisible[..., None] > 0, end - grid, 0.0)[None], covisible[None])


def _moved(affine: Float[Tensor, "P 1 1 3 3"], points: Float[Tensor, "*p h w 2"]) -> Float[Tensor, "P h w 2"]:
    """Points under maps that scale and shift each axis."""
    return points * affine[..., [0, 1], [0, 1]] + affine[..., :2, 2]


def _sampled(values: Float[Tensor, "P c H W"], at: Float[Tensor, "P h w 2"], mode: str) -> Float[Tensor, "P c h w"]:
    """Values at pixels of the grid, 0 outside."""
    normalised = at / at.new_tensor([values.shape[3], values.shape[2]]) * 2 - 1
    return F.grid_sample(values, normalised, mode=mode, padding_mode="zeros", align_corners=False)
