"""CoTracker3 (Karaev et al. 2024): points of a source frame tracked through the frames between, made dense."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.errors import InputError
from flow3r.geometry.camera import pixel_grid
from flow3r.model.licences import Licence
from flow3r.teacher.neural import NeuralTeacher
from flow3r.teacher.weights import Package, fetch_file, read_weights

OFFLINE = "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth"
WINDOW = 60  # frames: what the public weights were made for


@dataclass(frozen=True, kw_only=True)
class CotrackerTeacher(NeuralTeacher):
    """Tracks on a regular grid of a pair's source, through all frames between.

    Between four tracks that are all visible and hardly differ, flow is interpolated; elsewhere, at motion's boundaries
    and outside the grid, it is unknown. Its visibility is binary.
    """

    name: ClassVar[str] = "cotracker"
    package: ClassVar[Package] = Package(
        "cotracker.predictor",
        "cotracker",
        "pip install git+https://github.com/facebookresearch/co-tracker",
        "CC BY-NC 4.0",
    )
    licence: ClassVar[Licence] = Licence(
        "facebook/cotracker3", "CC BY-NC 4.0", False, "https://huggingface.co/facebook/cotracker3"
    )

    stride: int = 4  # pixels between tracks: of the network's features
    points: int = 4096  # tracked together, which changes them a little
    bend: float = 1.0  # ours: pixels by which four tracks round a pixel may differ, per coordinate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1 or self.points < 1:
            raise InputError(f"{self.points} points every {self.stride} pixels; expected at least 1 of both")

    def weight_files(self) -> Sequence[Path]:
        """One checkpoint. Raises CheckpointError if it may not be downloaded."""
        return [Path(self.weights or fetch_file(OFFLINE, self.licence, self.accept_license))]

    @cached_property
    def network(self) -> Any:
        """The offline predictor, in evaluation mode on the device."""
        predictor = self.package.load(self.licence).CoTrackerPredictor(checkpoint=None, offline=True, window_len=WINDOW)
        predictor.model.load_state_dict(read_weights(self.weight_files()[0]))
        return predictor.eval().to(self.device)

    def answers(self, images: Float[Tensor, "N 3 H W"], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
        """All targets of a source are reached by one run over the frames that they span."""
        height, width = images.shape[2:]
        rows, columns = max(2, -(-height // self.stride)), max(2, -(-width // self.stride))
        start = pixel_grid(rows, columns, images.device) * images.new_tensor([width / columns, height / rows])
        for source in dict.fromkeys(i for i, _ in pairs):
            targets = [j for i, j in pairs if i == source]
            first, last = min(source, *targets), max(source, *targets)
            tracks, visible = self._track(images[first : last + 1], source - first, start.flatten(0, 1))
            for target in targets:
                moved = (tracks[target - first] - start.flatten(0, 1)).view(rows, columns, 2)
                seen = visible[target - first].view(rows, columns)
                yield ((source, target), *_dense(moved, seen, self.bend, (height, width)))

    def _track(
        self, clip: Float[Tensor, "T 3 H W"], source: int, start: Float[Tensor, "n 2"]
    ) -> tuple[Float[Tensor, "T n 2"], Bool[Tensor, "T n"]]:
        """Images go in [0, 255], points as (frame, x, y) with integer pixel centres; so do the tracks come."""
        video = clip[None] * 255
        parts = []
        for part in start.split(self.points):
            queries = torch.cat([torch.full_like(part[:, :1], source), part - 0.5], dim=-1)[None]
            parts.append(self.network(video, queries=queries, backward_tracking=source > 0))
        tracks, visible = (torch.cat([part[0] for part in side], dim=1) for side in zip(*parts))
        return tracks.float() + 0.5, visible.bool()


def _dense(
    moved: Float[Tensor, "y x 2"], visible: Bool[Tensor, "y x"], bend: float, size: tuple[int, int]
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """Displacement, in pixels of the image, from tracks at the centres of a grid of equal cells that covers it."""
    rows, columns = visible.shape
    corners = [slice(None, -1), slice(1, None)]
    four = torch.stack([moved[a, b] for a in corners for b in corners])
    held = torch.stack([visible[a, b] for a in corners for b in corners]).all(0)
    held &= ((four.amax(0) - four.amin(0)) <= bend).all(-1)
    dense = F.interpolate(moved.movedim(-1, 0)[None], size, mode="bilinear", align_corners=False)[0].movedim(0, -1)
    place = pixel_grid(*size, moved.device) * moved.new_tensor([columns / size[1], rows / size[0]]) - 0.5
    x, y = (place + 1e-4).floor().long().unbind(-1)  # on a track, rounding must not lead beyond it
    inside = (place > -1e-4).all(-1) & (x <= columns - 1) & (y <= rows - 1)
    inside &= (place[..., 0] < columns - 1 + 1e-4) & (place[..., 1] < rows - 1 + 1e-4)
    known = inside & held[y.clamp(0, rows - 2), x.clamp(0, columns - 2)]
    return dense, known.float()
