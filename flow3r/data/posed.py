"""Labelled training scenes from sequences of posed images with depth, such as the scenes of a dataset."""

import math
from collections import Counter
from collections.abc import Sequence as List
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.frame import Frame, Sequence
from flow3r.data.mixture import Source, Wanted, draw_integer, draw_pairs
from flow3r.data.sampling import seconds_of
from flow3r.data.stored_flow import StoredFlow
from flow3r.data.transforms import fit_depth, fit_frame, fit_intrinsics
from flow3r.errors import InputError
from flow3r.geometry.flow import flow_from_depth
from flow3r.types import Flow, Teacher, Views

_OPENED_AT_ONCE = 256  # ours: more sequences than this are not all opened to learn how long they are
_TRIES = 100  # ours: sequences in a row that may be too short
LEAST_KNOWN = 0.01  # ours: share of a view's pixels with depth, below which a scene counts as bad; π³: one pixel


class PosedScenes(Source):
    """Scenes of several views of one of the sequences, each as likely as the others.

    `dense`: depth is dense and exact enough to supervise normals. `rigid`: nothing moves, so that depth and poses give
    flow. Where things do, `stored` labels do, if the sequence has enough of them: then frames are drawn that they
    connect. Else a `teacher` does; what it refuses is unknown, as is the flow of scenes without labels if there is no
    teacher. With neither there is no flow. Of very many sequences each is opened when it is first drawn. Raises
    InputError if no sequence has two frames.
    """

    def __init__(
        self,
        sequences: List[Sequence],
        *,
        strides: tuple[float, float] = (0.04, 2.0),
        dense: bool = False,
        rigid: bool = False,
        teacher: Teacher | None = None,
        stored: StoredFlow | None = None,
    ):
        self.sequences, self.strides, self.dense, self.rigid = sequences, strides, dense, rigid
        self.teacher, self.stored = teacher, None if rigid else stored
        self._counts: Counter[str] = Counter()
        longest = max((len(sequence) for sequence in sequences[:_OPENED_AT_ONCE]), default=0)
        if longest < 2:
            names = ", ".join(sequence.name for sequence in sequences[:3])
            raise InputError(
                f"none of {len(sequences)} sequences ({names}) has two usable frames; expected posed images"
            )
        self._longest = longest

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """With no more views than the longest of the sequences has, of very many of the first ones."""
        return replace(wanted, views=min(wanted.views, self._longest))

    def counts(self) -> Counter[str]:
        """Ordered pairs of scenes in which something moves whose labels were read from the store."""
        return self._counts

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of `wanted.views` frames, centre-cropped to the wanted size, each in the frame of its first view.

        Raises InputError where an image lacks a label or nearly all depth, or no sequence drawn has so many frames;
        LabelStoreError where the frames of a sequence are not those that were labelled.
        """
        scenes, flows = [], []
        for _ in range(wanted.scenes):
            sequence = self._draw_sequence(wanted.views, generator)
            chosen = None
            if self.stored is not None and wanted.pairs:
                chosen = self.stored.choose(sequence.name, wanted, generator)
            if chosen is None:
                indices = draw_frames(sequence.timestamps(), wanted.views, self.strides, generator).tolist()
            else:
                indices = chosen.indices
            frames = list(sequence.frames(indices))
            affines, *labels = _labels(frames, sequence.name, wanted.size)
            scenes.append(labels)
            flows.append(None)
            if chosen is not None:
                flows[-1] = self.stored.read(chosen, frames, affines, wanted.size, wanted.pairs)
                self._counts["stored pairs"] += len(chosen.rows)
        images, *labels = (torch.from_numpy(np.stack(values)) for values in zip(*scenes))
        images = images.float().div_(255).movedim(-1, 2)
        depth, intrinsics, poses = (label.float() for label in labels)
        flow = None
        if wanted.pairs and self.rigid:
            flow = _flow(depth, intrinsics, poses, draw_pairs(len(depth), wanted.views, wanted.pairs, generator))
        elif wanted.pairs and (self.teacher is not None or self.stored is not None):
            drawn = draw_pairs(len(depth), wanted.views, wanted.pairs, generator)
            known = [self._taught(*one) if flow is None else flow for flow, *one in zip(flows, images, drawn)]
            flow = _stacked(known)
        dense = torch.full(depth.shape[:2], self.dense)
        return Views(images, depth, intrinsics, poses, dense=dense, flow=flow)

    @property
    def in_process(self) -> bool:
        """Whether the teacher says that it computes on an accelerator (its `device`)."""
        return torch.device(getattr(self.teacher, "device", None) or "cpu").type != "cpu"

    def _taught(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> Flow:
        """What the teacher says of ordered pairs of a scene (B = 1); covisible nowhere where it refuses one.

        Without a teacher, nowhere at all.
        """
        if self.teacher is None:
            unknown = images.new_zeros(1, len(pairs), *images.shape[2:], 2)
            return Flow(pairs[None], unknown, unknown[..., 0])
        answer = self.teacher(images, pairs)
        accepted = torch.tensor([not reason for reason in answer.refusals])
        return Flow(pairs[None], answer.flow.displacement, answer.flow.covisible * accepted[:, None, None])

    def _draw_sequence(self, views: int, generator: torch.Generator) -> Sequence:
        """One with at least so many frames."""
        for _ in range(_TRIES):
            sequence = self.sequences[draw_integer(0, len(self.sequences) - 1, generator)]
            if len(sequence) >= views:
                return sequence
        raise InputError(f"{_TRIES} sequences in a row have fewer than {views} frames, the last: {sequence.name}")


def _labels(frames: List[Frame], name: str, size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Affine maps to the grid `size` from the original; images, depth, intrinsics and poses there. All of N frames."""
    for frame in frames:
        if frame.depth is None or frame.intrinsics is None or frame.world_from_camera is None:
            raise InputError(f"{name}: frame {frame.name} lacks depth, intrinsics or pose; expected all three")
    fitted = [fit_frame(frame.image, size) for frame in frames]
    affines = [fit.model_from_original for fit in fitted]
    depth = np.stack([fit_depth(frame.depth, affine, size) for frame, affine in zip(frames, affines)])
    intrinsics = np.stack([fit_intrinsics(frame.intrinsics, affine) for frame, affine in zip(frames, affines)])
    poses = np.stack([frame.world_from_camera for frame in frames]).astype(np.float64)
    if not (np.isfinite(depth).all() and np.isfinite(poses).all()):
        raise InputError(f"{name}: a depth or a pose of frames {[frame.name for frame in frames]} is not finite")
    known = (depth > 0).mean((1, 2))
    if known.min() < LEAST_KNOWN:
        worst = frames[int(known.argmin())].name
        raise InputError(f"{name}: frame {worst} has depth in {known.min():.1%} of it; expected {LEAST_KNOWN:.0%}")
    images = np.stack([fit.image for fit in fitted])
    return np.stack(affines), images, depth, intrinsics, np.linalg.inv(poses[0]) @ poses


def _flow(
    depth: Float[Tensor, "B N H W"],
    intrinsics: Float[Tensor, "B N 3 3"],
    world_from_camera: Float[Tensor, "B N 4 4"],
    pairs: Int[Tensor, "B P 2"],
) -> Flow:
    """Flow of static scenes for ordered pairs."""
    scene = torch.arange(len(pairs))[:, None, None]
    of_pairs = (labels[scene, pairs].flatten(0, 1) for labels in (depth, intrinsics, world_from_camera))
    displacement, covisible = flow_from_depth(*of_pairs)
    shape = pairs.shape[:2]
    return Flow(pairs, displacement.unflatten(0, shape), covisible.unflatten(0, shape).float())


def _stacked(flows: List[Flow]) -> Flow:
    """Flow of several scenes (B = 1) with as many pairs each as one batch."""
    return Flow(*(torch.cat([getattr(flow, key) for flow in flows]) for key in ("pairs", "displacement", "covisible")))


def draw_frames(
    timestamps: Float[np.ndarray, "N"], views: int, strides: tuple[float, float], generator: torch.Generator
) -> Int[Tensor, "n"]:
    """`views` ascending frames about a random one, on average a stride apart that is log-uniform in `strides` seconds.

    They are uniform among the frames in reach, or the nearest ones where these are too few. Without a clock 25 frames
    make a second.
    """
    seconds = torch.from_numpy(seconds_of(timestamps))
    low, high = map(math.log, strides)
    stride = math.exp(low + (high - low) * float(torch.rand((), generator=generator)))
    anchor = draw_integer(0, len(seconds) - 1, generator)
    away = (seconds - seconds[anchor]).abs()
    reach = max(views, int((away <= stride * views / 2).sum()))
    others = away.argsort(stable=True)[1:reach]
    taken = others[torch.randperm(len(others), generator=generator)[: views - 1]]
    return torch.cat([torch.tensor([anchor]), taken]).sort().values
