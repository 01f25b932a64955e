"""What a model cannot work on is refused here, with the reason."""

from collections.abc import Collection

import torch
from torch import Tensor

from flow3r.config import MatcherConfig, ModelConfig, VggtConfig

OUTPUTS = ("points", "confidence", "cameras")
BRIGHTEST = 1.5  # ours: resampling may overshoot 1 a little, 8-bit values do so by far


def check_call(
    images: Tensor,
    pairs: Tensor | None,
    outputs: Collection[str],
    intrinsics: Tensor | None,
    config: ModelConfig | VggtConfig | MatcherConfig,
    head_weight: Tensor,
) -> None:
    """Raise ValueError for a call that a model of these sizes, with this weight of a head in fp32, cannot answer."""
    check_images(images, config.encoder.patch, head_weight.device)
    check_head_precision(head_weight)
    check_outputs(outputs)
    if pairs is not None:
        check_pairs(pairs, *images.shape[:2], bool(config.flow))
    if intrinsics is not None:
        check_intrinsics(intrinsics, images)


def check_images(images: Tensor, patch: int, device: torch.device) -> None:
    """Raise ValueError unless images are (B, N, 3, H, W), floating, in [0, 1], of sides that are multiples of the patch
    size, and on the model's device. Values are read on a CPU alone, where that is no wait."""
    shape = tuple(images.shape)
    if images.ndim != 5 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"images have shape {shape}, expected (scenes, views, 3, height, width), none of them 0")
    if not images.is_floating_point():
        raise ValueError(f"images are {images.dtype}, expected floats in [0, 1]: images.float() / 255")
    if shape[3] % patch or shape[4] % patch:
        raise ValueError(
            f"images are {shape[3]}x{shape[4]}, both sides must be multiples of {patch}: "
            "fit them with flow3r.data.transforms.fit_frame"
        )
    if images.device != device:
        raise ValueError(f"images are on {images.device} and the model is on {device}: move one to the other")
    if _at_hand(images):
        low, high = _range(images)
        if not -0.5 <= low <= high <= BRIGHTEST:  # NaN fails too
            raise ValueError(
                f"images range from {low:.3g} to {high:.3g}, expected RGB in [0, 1]: divide 8-bit values by 255, and "
                "leave ImageNet normalisation to the model"
            )


def check_outputs(outputs: Collection[str]) -> None:
    """Raise ValueError for an output that no model has."""
    if isinstance(outputs, str):
        raise ValueError(f"outputs are the text {outputs!r}, expected a collection of names: [{outputs!r}]")
    unknown = sorted(set(outputs) - set(OUTPUTS))
    if unknown:
        raise ValueError(f"unknown outputs {', '.join(unknown)}; choose from {', '.join(OUTPUTS)}")


def check_pairs(pairs: Tensor, scenes: int, views: int, has_flow_head: bool) -> None:
    """Raise ValueError unless pairs are (B, P, 2) integers that name views of these scenes, and flow can be had."""
    if not has_flow_head:
        raise ValueError("flow was asked of a model without a flow head (config.flow is None): leave out the pairs")
    if pairs.ndim != 3 or pairs.shape[0] != scenes or pairs.shape[2] != 2 or pairs.dtype != torch.int64:
        raise ValueError(
            f"pairs are {pairs.dtype} of shape {tuple(pairs.shape)}, expected int64 ({scenes}, P, 2): (source, target)"
        )
    if _at_hand(pairs) and pairs.numel():
        low, high = _range(pairs)
        if low < 0 or high >= views:
            raise ValueError(f"pairs name views {low} to {high}, but there are {views}, counted from 0")


def check_head_precision(weight: Tensor) -> None:
    """Raise ValueError unless a weight of a head that works in fp32 is kept in it, as after `model.bfloat16()`."""
    if weight.dtype != torch.float32:
        raise ValueError(
            f"the heads' weights are {weight.dtype}, expected torch.float32: lower a model loaded in float32 by "
            "flow3r.model.fast.lay_out_for_inference(model, dtype), which leaves them"
        )


def check_intrinsics(intrinsics: Tensor, images: Tensor) -> None:
    """Raise ValueError unless intrinsics are (B, N, 3, 3) floats for these images, on their device, and finite."""
    expected = (*images.shape[:2], 3, 3)
    if tuple(intrinsics.shape) != expected or not intrinsics.is_floating_point():
        raise ValueError(
            f"intrinsics are {intrinsics.dtype} of shape {tuple(intrinsics.shape)}, expected floats {expected}: "
            "one pinhole per view, in pixels of the images"
        )
    if intrinsics.device != images.device:
        raise ValueError(f"intrinsics are on {intrinsics.device} and the images on {images.device}: move one")
    if _at_hand(intrinsics) and not intrinsics.isfinite().all():
        raise ValueError("intrinsics hold NaN or infinity; leave them out where they are unknown")


def _at_hand(tensor: Tensor) -> bool:
    """Whether its values can be read without waiting for a device, and are not those of a tracer."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _range(tensor: Tensor) -> tuple[float, float]:
    values = (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).numpy()
    return values.min().item(), values.max().item()
