"""The types that flow through.

Dimension letters, the same everywhere: `B` scenes, `N` views, `P` ordered pairs, `H W` pixels, `h w` tokens of a view,
`D` channels. Conventions (docs/conventions.md): OpenCV axes, z-depth, camera-to-world poses, pixel centres at
half-integers, flow in pixels of the tensor's own H x W, coordinates (x, y), sizes (H, W). All are frozen; nothing edits
its arguments; the device comes from the input.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flow3r.files import FrameStack

Movable = TypeVar("Movable", bound="OnDevice")


def _applied(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, OnDevice):
        return value.apply(function)
    if isinstance(value, tuple):
        return tuple(_applied(function, item) for item in value)
    return value


class OnDevice:
    """A frozen dataclass of tensors that moves to a device as a whole."""

    def to(self: Movable, device: torch.device | str) -> Movable:
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def apply(self: Movable, function: Callable[[Tensor], Tensor]) -> Movable:
        """The same with every tensor replaced by a function of it."""
        fields = {field.name: _applied(function, getattr(self, field.name)) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True)
class Flow(OnDevice):
    """Dense flow from view i to view j for ordered pairs (i, j).

    `displacement` is in pixels (x right, y down) of its own H x W: the pixel centred at u in view i is seen in view j
    at u + displacement. `covisible` is in [0, 1]; 0 marks unknown flow, whose displacement is finite and meaningless.
    None: the source estimates no covisibility (the paper's flow head predicts none).
    """

    pairs: Int[Tensor, "B P 2"]
    displacement: Float[Tensor, "B P H W 2"]
    covisible: Float[Tensor, "B P H W"] | None


@dataclass(frozen=True)
class Views(OnDevice):
    """A batch of scenes seen in N views each, with the labels that are known.

    A batch is labelled if `depth` is not None: all of its images then have depth (0 marks unknown pixels), intrinsics
    and poses. `flow` may be present with or without them.
    """

    images: Float[Tensor, "B N 3 H W"]  # RGB in [0, 1]
    depth: Float[Tensor, "B N H W"] | None = None  # z-depth, 0 = unknown
    intrinsics: Float[Tensor, "B N 3 3"] | None = None  # pixels at this H x W
    world_from_camera: Float[Tensor, "B N 4 4"] | None = None
    valid: Bool[Tensor, "B N H W"] | None = None  # False: padding or masked by the user
    dense: Bool[Tensor, "B N"] | None = None  # depth is dense and exact enough to supervise normals
    flow: Flow | None = None
    names: tuple[tuple[str, ...], ...] | None = None  # where each image came from, for logs only

    @property
    def labelled(self) -> bool:
        return self.depth is not None


@dataclass(frozen=True)
class Latents(OnDevice):
    """Geometry latents g and camera latents c of Eq. 2: per level of the flow head, shallow to deep, a map per view.

    Camera latents are as many as patches in the π³ family, and one per view in VGGT's.
    """

    geometry: tuple[Float[Tensor, "B N h w D"], ...]
    camera: tuple[Float[Tensor, "B N y x C"], ...]


@dataclass(frozen=True)
class Prediction(OnDevice):
    """What a model predicts, at its input's H x W. World frame and scale are arbitrary, shared by a scene's views.

    Fields are None where that output was not asked for.
    """

    local_points: Float[Tensor, "B N H W 3"] | None = None  # in each camera's frame
    world_points: Float[Tensor, "B N H W 3"] | None = None
    confidence_logit: Float[Tensor, "B N H W"] | None = None
    world_from_camera: Float[Tensor, "B N 4 4"] | None = None
    intrinsics: Float[Tensor, "B N 3 3"] | None = None  # only models that predict them
    flow: Flow | None = None
    world_confidence_logit: Float[Tensor, "B N H W"] | None = (
        None  # only models whose world points have one of their own
    )

    @property
    def confidence(self) -> Float[Tensor, "B N H W"] | None:
        """In [0, 1]."""
        return None if self.confidence_logit is None else self.confidence_logit.sigmoid()

    @property
    def depth(self) -> Float[Tensor, "B N H W"] | None:
        """The z of the local points."""
        return None if self.local_points is None else self.local_points[..., 2]


@dataclass(frozen=True)
class Tracks(OnDevice):
    """Points of view 0 followed through all views, in pixels of their H x W; a place may lie outside its view.

    `visible`: in [0, 1], that the point is seen in that view. `confidence`: in [0, 1], that the place is right.
    """

    pixels: Float[Tensor, "B N n 2"]
    visible: Float[Tensor, "B N n"]
    confidence: Float[Tensor, "B N n"]


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed set of images, as numpy arrays on the model's grid, with what leads back to the original images.

    `points` lie at `depth` along the rays of `intrinsics`, so that they reproject exactly; `raw_points` are the
    network's own pointmaps in world space. The world is the frame of the first camera. `original_from_model` maps
    homogeneous model pixels to pixels of the upright original image. Depth 0 marks a pixel without a point. What has a
    value per pixel may be a FrameStack, for more frames than memory holds: read it frame by frame.
    """

    names: tuple[str, ...]
    frame_indices: Int[np.ndarray, "N"]  # position of each frame in the source
    timestamps: Float[np.ndarray, "N"]  # seconds; the frame index where the source has no clock
    original_sizes: Int[np.ndarray, "N 2"]  # (H, W) of the upright original images
    original_from_model: Float[np.ndarray, "N 3 3"]
    world_from_camera: Float[np.ndarray, "N 4 4"]
    intrinsics: Float[np.ndarray, "N 3 3"]  # pixels of the model's grid: one of the next two, as `pinhole` says
    frame_intrinsics: Float[np.ndarray, "N 3 3"]  # recovered from the pointmap of each frame alone
    shared_intrinsics: Float[np.ndarray, "3 3"]  # one pinhole recovered from all frames jointly
    intrinsics_residual: Float[np.ndarray, "N"]  # RMS pixels between the raw pointmap and the rays of `intrinsics`
    depth: Float[np.ndarray | FrameStack, "N H W"]
    points: Float[np.ndarray | FrameStack, "N H W 3"]
    raw_points: Float[np.ndarray | FrameStack, "N H W 3"]
    confidence: Float[np.ndarray | FrameStack, "N H W"]  # in [0, 1]
    colours: UInt8[np.ndarray | FrameStack, "N H W 3"]  # sRGB
    valid: Bool[np.ndarray | FrameStack, "N H W"]  # False: padding, or no point in front of the camera
    pinhole: Literal["shared", "per-frame"] = "per-frame"
    scale: Literal["relative", "metric"] = "relative"
    source: str = ""  # name of the video or images
    model: str = ""  # what predicted it
    weights_sha256: str = ""  # of the tensors that it held
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)  # seconds per stage
    notes: tuple[str, ...] = ()  # what a user should know of how it was made

    @property
    def original_intrinsics(self) -> Float[np.ndarray, "N 3 3"]:
        """The pinholes in pixels of the upright original images."""
        return self.original_from_model @ self.intrinsics


@dataclass(frozen=True)
class FlowLabels:
    """A teacher's answer for one clip: flow (B = 1) and, per pair, why it was refused ("" where it was accepted)."""

    flow: Flow
    refusals: tuple[str, ...]


@runtime_checkable
class Teacher(Protocol):
    """An off-the-shelf source of flow. `images` are consecutive frames of one shot; it may use those between a pair."""

    name: str
    parameters: dict[str, Any]  # every setting that changes its labels; hashed into the label store

    def __call__(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> FlowLabels: ...
