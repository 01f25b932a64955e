"""What is compared: anything that turns the frames of a sample into a `Sample`, our models and the rows beside them.

Methods that live in an installation of their own write their samples themselves (flow3r/eval/methods/runners).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from flow3r.data.frame import Frame
from flow3r.data.transforms import choose_grid, fit_frame
from flow3r.eval.predictors import Predictor, identity, model_predictor
from flow3r.eval.samples import Sample
from flow3r.reconstruction.network import open_network
from flow3r.types import Flow, Views

PATCH = 14  # pixels; of all models here

Pairs = Sequence[tuple[int, int]]


@runtime_checkable
class Method(Protocol):
    """Frames in the order of the manifest, without labels, and the ordered pairs whose flow is asked for -> a Sample.

    `fingerprint` tells weights and settings: samples of another one are made anew. What a method raises fails the
    sample, and the reason is kept.
    """

    name: str
    fingerprint: str

    def __call__(self, frames: Sequence[Frame], pairs: Pairs) -> Sample: ...


@dataclass(frozen=True)
class PredictorMethod:
    """A predictor on the grid that `tokens` and the frames' shape choose; all frames are cropped to one shape."""

    name: str
    fingerprint: str
    predictor: Predictor
    tokens: tuple[int, int]

    def __call__(self, frames: Sequence[Frame], pairs: Pairs) -> Sample:
        images, grid_from_image = images_on_grid(frames, self.tokens)
        flow = None
        if pairs:
            asked, nothing = torch.tensor([list(pairs)]), torch.zeros(1, len(pairs), *images.shape[-2:])
            flow = Flow(asked, torch.stack([nothing, nothing], dim=-1), None)
        prediction = self.predictor(Views(images, flow=flow))
        known = {
            name: None if value is None else value[0].cpu().double().numpy()
            for name, value in (("local_points", prediction.local_points), ("intrinsics", prediction.intrinsics))
        }
        return Sample(
            frames=np.arange(len(frames)),
            world_from_camera=prediction.world_from_camera[0].cpu().double().numpy(),
            grid_from_image=grid_from_image,
            pairs=np.array(pairs) if pairs else None,
            flow=prediction.flow.displacement[0].cpu().float().numpy() if pairs else None,
            **known,
        )


def images_on_grid(
    frames: Sequence[Frame], tokens: tuple[int, int]
) -> tuple[Float[torch.Tensor, "1 N 3 H W"], Float[np.ndarray, "N 3 3"]]:
    """Frames as a model's input, and what maps the pixels of each to it."""
    size = choose_grid([frame.image.shape[:2] for frame in frames], tokens, PATCH)
    fitted = [fit_frame(frame.image, size) for frame in frames]
    images = torch.from_numpy(np.stack([fit.image for fit in fitted])).movedim(-1, 1).float() / 255
    return images[None], np.stack([fit.model_from_original for fit in fitted])


def model_method(
    model: str | Path | nn.Module, *, name: str = "", device: str | None = None, dtype: torch.dtype | None = None
) -> PredictorMethod:
    """One of our models, or a public one of the π³, VGGT or Flow3r layout, by name, file or hub id, on its own grid.

    Its cameras, points and flow are scored as they are; a model without a flow head gives the flow of its points.
    """
    network = open_network(model, device, dtype)
    predict = model_predictor(network.module)
    lower = network.weights == torch.float32 and network.dtype != torch.float32

    def predictor(views: Views):
        with torch.autocast(network.device.type, network.dtype, enabled=lower):
            return predict(views)

    fingerprint = f"{network.sha256} {str(network.dtype).removeprefix('torch.')} {network.tokens}"
    return PredictorMethod(name or network.name, fingerprint, predictor, network.tokens)


def identity_method(tokens: tuple[int, int]) -> PredictorMethod:
    """The trivial row: no camera moves, and all see a flat wall."""
    return PredictorMethod("identity", f"1 {tokens}", identity, tokens)


def method_called(name: str, *, device: str | None = None) -> Method:
    """`identity`, `classical`, or a model by `NAME=` and what load_model takes, or by that alone.

    "flow3r=runs/flow3r" is a row called flow3r; without a name a model is called as its file or folder.
    Raises CheckpointError for weights that cannot be loaded.
    """
    if name == "identity":
        return identity_method((64, 96))
    if name == "classical":
        from flow3r.eval.methods.classical_sfm import ClassicalMethod

        return ClassicalMethod()
    label, _, weights = name.rpartition("=")
    return model_method(weights, name=label, device=device)
