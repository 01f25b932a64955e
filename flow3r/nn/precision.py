"""Which precision a device is fast in, and which one products are taken in."""

import torch
from torch import Tensor


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it (CUDA from Ampere on, CPUs with AMX or AVX-512 BF16), else float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.bfloat16 if native else torch.float32


def product_dtype(x: Tensor) -> torch.dtype:
    """The type of what a linear layer makes of `x`: that of the ambient autocast, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
