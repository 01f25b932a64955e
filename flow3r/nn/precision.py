"""Which device is worked on; which precision it is fast in, and how fast; which products and weights are in."""

import math
import time

import torch
from torch import Tensor, nn

from flow3r.errors import InputError


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device that is asked for, by default CUDA where there is one. Raises InputError for one that is not there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # no such name; not compiled for it, no driver, no such number
        reason = str(error).split("\n")[0][:80]
        raise InputError(f"device {device}: cannot be used here ({reason}); leave it out, or take cpu") from error


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it (CUDA from Ampere on, CPUs with AMX or AVX-512 BF16), else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else torch.float32


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of matrix products on a device, from a few that take a moment."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.ones(2, size, size, device=device, dtype=dtype).unbind(0)
    best = math.inf
    for _ in range(4):  # the first warms up
        began = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of what a linear layer makes of `x`: that of the ambient autocast, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def keep_full_precision(module: nn.Module) -> nn.Module:
    """Mark a module whose weights `lower_precision` leaves alone, since it works in fp32 whatever is around it."""
    module.full_precision = True
    return module


def lower_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a model in `dtype`, in place, but for the modules that are marked to keep theirs.

    Half the memory of autocast's weights and none of its casts, for inference: residuals are in `dtype` too.
    """
    kept = {id(p) for m in model.modules() if getattr(m, "full_precision", False) for p in m.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
