"""A model as reconstruction uses it: loaded, run on one window without gradients, and given back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.config import ModelConfig, VggtConfig
from flow3r.errors import CheckpointError, InputError
from flow3r.model.checkpoints import load_model
from flow3r.nn.memory import Memory
from flow3r.nn.precision import fast_dtype
from flow3r.reconstruction.frames import Pixels


@dataclass(frozen=True)
class WindowPrediction:
    """What a model says of one window, on the CPU in float32, finite. Its world and scale are the window's own."""

    local_points: Float[Tensor, "N H W 3"]
    confidence: Float[Tensor, "N H W"]  # in [0, 1]
    world_from_camera: Float[Tensor, "N 4 4"]


@dataclass(frozen=True)
class Network:
    """A module that maps images (1 N 3 H W) to a Prediction, and what it is run in."""

    module: nn.Module
    name: str
    device: torch.device
    dtype: torch.dtype  # of autocast

    @property
    def config(self) -> ModelConfig | VggtConfig | None:
        """Its sizes, where it says."""
        config = getattr(self.module, "config", None)
        return config if isinstance(config, ModelConfig | VggtConfig) else None

    @property
    def chunk_tokens(self) -> int | None:
        """How many tokens it takes at once, where it divides them."""
        memory = getattr(self.module, "memory", None)
        return memory.tokens if isinstance(memory, Memory) else None

    @property
    def weights(self) -> torch.dtype:
        """What its weights are kept in."""
        first = next(self.module.parameters(), None)
        return torch.float32 if first is None else first.dtype

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.module.state_dict().values())

    @property
    def tokens(self) -> tuple[int, int]:
        """The patches of an image that it is made for; the public model's where it does not say."""
        return (self.config or ModelConfig()).tokens

    def predict(self, pixels: Pixels) -> WindowPrediction:
        """One forward pass. Raises CheckpointError, naming the frame, for a prediction that is not finite."""
        images = torch.from_numpy(pixels.images).to(self.device).movedim(-1, -3)[None].float() / 255
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)
        with _evaluating(self.module), torch.inference_mode(), autocast:
            prediction = self.module(images, outputs=("points", "confidence", "cameras"))
        fields = ("local_points", "confidence_logit", "world_from_camera")
        found = {field: getattr(prediction, field)[0].cpu().float() for field in fields}
        for field, value in found.items():
            for name, finite in zip(pixels.names, torch.isfinite(value).flatten(1).all(dim=1).tolist()):
                if not finite:
                    raise CheckpointError(
                        f"{self.name}: predicts NaN or infinite {field} for {name} in {self.dtype}; expected finite "
                        "values: its weights are damaged, or pass dtype=torch.float32"
                    )
        return WindowPrediction(found["local_points"], found["confidence_logit"].sigmoid(), found["world_from_camera"])


def open_network(
    model: str | Path | nn.Module, device: str | torch.device | None, dtype: torch.dtype | None
) -> Network:
    """The model, loaded where it is not one yet: on `device`, or else that of a module, or CUDA where there is one."""
    if isinstance(model, nn.Module):
        name, found = type(model).__name__, _device_of(model)
        if device is not None and found.type != torch.device(device).type:
            raise InputError(f"the model is on {found}, not on {device}: move it there first, or leave out device")
    else:
        name, found = Path(model).name, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model = load_model(model, found)
    return Network(model, name, found, dtype or fast_dtype(found))


def _device_of(module: nn.Module) -> torch.device:
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every part is back in the mode that it had."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
