"""A model as reconstruction uses it: loaded, run on one window without gradients, and given back as it was."""

import hashlib
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
from flow3r.model.fast import lay_out_for_inference
from flow3r.nn.memory import Memory
from flow3r.nn.precision import choose_device, fast_dtype
from flow3r.reconstruction.frames import Pixels

TOKENS_AT_ONCE = 16_384  # ours: through work within a view, which holds several times what its tokens do


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
    dtype: torch.dtype  # of products
    sha256: str  # of the weights as they were loaded or given

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
        lower = self.weights == torch.float32 and self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, self.dtype, enabled=lower)
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
        if device is not None and found.type != choose_device(device).type:
            raise InputError(f"the model is on {found}, not on {device}: move it there first, or leave out device")
    else:
        name, found = Path(model).name, choose_device(device)
        model = load_model(model)
        sha256, dtype = hash_weights(model), dtype or fast_dtype(found)
        lay_out_for_inference(model, kept_in(found, dtype))
        model.to(found).memory = Memory(tokens=TOKENS_AT_ONCE)
        return Network(model, name, found, dtype, sha256)
    return Network(model, name, found, dtype or fast_dtype(found), hash_weights(model))


def kept_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What the weights of a model that is loaded for products in `dtype` are kept in: `dtype` itself on a GPU, where
    memory is dear; fp32 on a CPU."""
    return torch.float32 if device.type == "cpu" else dtype


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all tensors of a model, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


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
