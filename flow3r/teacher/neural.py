"""What all neural teachers share: devices, batches of pairs, the way back to the images' size, gates, provenance."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.transforms import resize_labels
from flow3r.geometry.camera import inside_image, pixel_grid
from flow3r.geometry.flow import forward_backward_error
from flow3r.model.licences import Licence
from flow3r.nn.precision import choose_device
from flow3r.teacher.dense import erode
from flow3r.teacher.weights import Package, sha256_of_files
from flow3r.types import Flow, FlowLabels

VERSION = 1  # of what is done with a network's answer: raise it with every change of the labels
NO_LABEL = ("device", "batch", "accept_license", "weights")  # fields that no label depends on but by `weights_sha256`


@dataclass(frozen=True)
class Answer:
    """Flow of some pairs on any grid, in pixels of that grid, and covisibility, if the network estimates it."""

    displacement: Float[Tensor, "b h w 2"]
    covisible: Float[Tensor, "b h w"] | None = None


@dataclass(frozen=True, kw_only=True)
class NeuralTeacher(ABC):
    """A `Teacher` whose network comes from elsewhere; it is loaded at the first call. Subclasses say how it answers.

    `weights` is a file (or folder) of one's own in place of the public ones, which are downloaded only once their
    licence is accepted: by `accept_license`, by --accept-license, or earlier.
    """

    name: ClassVar[str]
    package: ClassVar[Package]
    licence: ClassVar[Licence]

    device: str = ""  # by default CUDA where there is one
    batch: int = 4  # pairs at once
    accept_license: bool = False
    weights: str = ""
    threshold: float = 0.5  # of the network's covisibility; UFM's own viewer cuts there
    erosion: int = 1  # pixels taken off every label's rim
    covisible_share: tuple[float, float] = (0.2, 0.98)  # ours; above, nothing moves
    least_motion: float = 0.01  # ours: of the diagonal, median flow below which a pair is near-static

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", str(choose_device(self.device or None)))

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: every process loads its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting that changes the labels.

        Raises InputError without the package, CheckpointError without the weights.
        """
        self.package.load(self.licence)
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in NO_LABEL}
        return {
            "version": VERSION,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()},
            "package": f"{self.package.distribution} {self.package.version()}",
            "weights_sha256": self._weights_sha256,
        }

    @cached_property
    def _weights_sha256(self) -> str:
        return sha256_of_files(self.weight_files())

    @abstractmethod
    def weight_files(self) -> Sequence[Path]:
        """The files of the weights. Raises CheckpointError if they are not there and may not be downloaded."""

    @abstractmethod
    def answers(self, images: Float[Tensor, "N 3 H W"], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
        """((i, j), displacement (h, w, 2), covisibility (h, w)) of every one of these distinct pairs, in any order."""

    def __call__(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> FlowLabels:
        """Flow for ordered pairs of frames of one shot, RGB in [0, 1], at the images' size.

        A refused pair has covisibility 0 everywhere and a reason "<kind> (<measured>)". Raises InputError without the
        package, CheckpointError without the weights.
        """
        size, ordered = (images.shape[2], images.shape[3]), [(int(i), int(j)) for i, j in pairs.tolist()]
        displacement = images.new_zeros(1, len(ordered), *size, 2)
        covisible = images.new_zeros(1, len(ordered), *size)
        refusals = ["same frame" if i == j else "" for i, j in ordered]
        distinct = list(dict.fromkeys((i, j) for i, j in ordered if i != j))
        with torch.no_grad():
            for pair, flow, seen in self.answers(images.to(self.device), distinct) if distinct else ():
                label, reason = self._judge(pair, flow, seen, size)
                for row in (row for row, other in enumerate(ordered) if other == pair):
                    refusals[row] = reason
                    if not reason:
                        displacement[0, row], covisible[0, row] = label.displacement[0, 0], label.covisible[0, 0]
        return FlowLabels(Flow(pairs[None].to(images.device), displacement, covisible), tuple(refusals))

    def _judge(
        self,
        pair: tuple[int, int],
        displacement: Float[Tensor, "h w 2"],
        covisible: Float[Tensor, "h w"],
        size: tuple[int, int],
    ) -> tuple[Flow, str]:
        """The label of a pair at `size`, or why there is none."""
        height, width = covisible.shape
        known = displacement.isfinite().all(-1)
        displacement = torch.where(known[..., None], displacement, 0.0).float()
        known &= inside_image(pixel_grid(height, width, displacement.device) + displacement, height, width)
        known &= covisible > 0
        share = float(known.float().mean())
        known = known & _eroded(known, self.erosion)
        flow = Flow(
            torch.tensor([[pair]], device=displacement.device),
            (displacement * known[..., None])[None, None],
            torch.where(known, covisible, 0.0).float()[None, None],
        )
        flow = resize_labels(flow, size)
        low, high = self.covisible_share
        if share < low:
            return flow, f"too little covisible ({share:.0%})"
        length = flow.displacement[0, 0].norm(dim=-1)[flow.covisible[0, 0] > 0]
        median = float(length.median()) if length.numel() else 0.0
        if median < self.least_motion * (size[0] ** 2 + size[1] ** 2) ** 0.5:
            return flow, f"near-static (median flow {median:.1f} px)"
        return flow, f"nothing hidden ({share:.0%} covisible)" if share > high else ""


@dataclass(frozen=True, kw_only=True)
class PairwiseTeacher(NeuralTeacher):
    """A neural teacher whose network sees two images at a time.

    With `both_ways` a pixel is covisible only if it passes the check of UnFlow (Meister et al. 2018) with the flow
    back; the covisibility of a network that estimates none is then exp(-e / 2) of the check's error e.
    """

    both_ways: bool = False

    @abstractmethod
    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """The network's answer for some pairs of images, RGB in [0, 1]."""

    def answers(self, images: Float[Tensor, "N 3 H W"], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
        """Both directions of a pair are asked for together where either needs them, so that no network runs twice."""
        asked, step = set(pairs), max(1, self.batch)
        unordered = list(dict.fromkeys((min(pair), max(pair)) for pair in pairs))
        for some in (unordered[first : first + step] for first in range(0, len(unordered), step)):
            backwards = [(j, i) for i, j in some]
            there = self._ask(images, some) if self.both_ways or asked & set(some) else None
            back = self._ask(images, backwards) if self.both_ways or asked & set(backwards) else None
            for ordered, flow, other in ((some, there, back), (backwards, back, there)):
                if flow is None or not asked & set(ordered):
                    continue
                covisible = self._covisible(flow, other if self.both_ways else None)
                for row, pair in enumerate(ordered):
                    if pair in asked:
                        yield pair, flow.displacement[row], covisible[row]

    def _ask(self, images: Float[Tensor, "N 3 H W"], pairs: Sequence[tuple[int, int]]) -> Answer:
        sources, targets = (images[list(side)] for side in zip(*pairs))
        answer = self.match(sources, targets)
        # A clone is an ordinary tensor where the network ran in inference mode.
        seen = None if answer.covisible is None else answer.covisible.float().clone()
        return Answer(answer.displacement.float().clone(), seen)

    def _covisible(self, flow: Answer, back: Answer | None) -> Float[Tensor, "b h w"]:
        soft = torch.ones_like(flow.displacement[..., 0]) if flow.covisible is None else flow.covisible
        soft = torch.where(soft > self.threshold, soft, 0.0)
        if back is None:
            return soft
        error, inside = forward_backward_error(flow.displacement, back.displacement)
        if flow.covisible is None:
            soft = torch.exp(-error / 2)
        return torch.where((error < 1) & inside, soft, 0.0)


def resize_images(images: Float[Tensor, "b 3 H W"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
    """Images stretched to `size` (H, W), antialiased."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def working_size(size: tuple[int, int], long_side: int, stride: int, least: int = 1) -> tuple[int, int]:
    """(H, W) with multiples of `stride` near `size`, no longer than `long_side`, both sides at least `least`."""
    scale = max(min(1.0, long_side / max(size)), least / min(size))
    return tuple(max(stride, stride * round(side * scale / stride)) for side in size)


def displacement_to(positions: Float[Tensor, "b h w 2"]) -> Float[Tensor, "b h w 2"]:
    """Flow in pixels from target positions in [-1, 1], where -1 and 1 are the rims of the image, not pixel centres."""
    height, width = positions.shape[1:3]
    scale = positions.new_tensor([width, height])
    return (positions.float() + 1) / 2 * scale - pixel_grid(height, width, positions.device)


def _eroded(mask: Bool[Tensor, "h w"], pixels: int) -> Bool[Tensor, "h w"]:
    return torch.from_numpy(erode(mask.cpu().numpy(), pixels)).to(mask.device)
