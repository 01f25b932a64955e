"""Photometric augmentation: what exposure, processing and compression change in an image, while no pixel moves.

Labels stay true, those of a teacher too, which saw the clean frames. On any device, all views of a batch at once.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import AugmentConfig
from flow3r.types import Views

# Y, Cb, Cr of R, G, B (ITU-R BT.601), and the quantisation of their 8 x 8 blocks at quality 50 (ITU-T T.81, Annex K).
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_LUMA_STEPS = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_STEPS = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
_PIXELS_AT_ONCE, _PIXELS_AT_ONCE_ON_GPU = 300_000, 10_000_000  # on a CPU more than this leaves the cache
_DRAWS = 10  # random numbers that each view takes, in use or not, so that none depends on another's


def augment(views: Views, config: AugmentConfig, generator: torch.Generator) -> Views:
    """The same views, each image changed by itself: colour, then compression, then blur. Everything else is untouched.

    Depends on the images, `config` and `generator` (of the CPU) alone.
    """
    images = views.images.flatten(0, 1)
    draws = torch.rand(len(images), _DRAWS, generator=generator)
    pixels = _PIXELS_AT_ONCE if images.device.type == "cpu" else _PIXELS_AT_ONCE_ON_GPU
    count = max(1, pixels // images[0, 0].numel())
    changed = [_changed(part, config, drawn) for part, drawn in zip(images.split(count), draws.split(count))]
    return replace(views, images=torch.cat(changed).view_as(views.images))


def _changed(
    images: Float[Tensor, "V 3 H W"], config: AugmentConfig, draws: Float[Tensor, "V _"]
) -> Float[Tensor, "V 3 H W"]:
    draw = draws.unbind(1)
    images = jitter_colour(
        images,
        brightness=_within(config.brightness, draw[0]),
        contrast=_within(config.contrast, draw[1]),
        saturation=_within(config.saturation, draw[2]),
        gamma=_within(config.gamma, draw[3]),
        hue=_within(config.hue, draw[4]),
    )
    compressed = (draw[5] < config.compressed_share).nonzero()[:, 0]
    if len(compressed):
        low, high = config.quality
        quality = (low + draw[6][compressed] * (high + 1 - low)).long().clamp(max=high)
        place = compressed.to(images.device)
        images[place] = compress(images[place], quality)
    for view in (draw[7] < config.blurred_share).nonzero()[:, 0].tolist():
        scale = float(_within(config.blur_scale, draw[8][view]))
        images[view] = blur(images[view], scale, "bicubic" if draw[9][view] < 0.5 else "bilinear")
    return images


def jitter_colour(
    images: Float[Tensor, "V 3 H W"],
    *,
    brightness: Float[Tensor, "V"],
    contrast: Float[Tensor, "V"],
    saturation: Float[Tensor, "V"],
    gamma: Float[Tensor, "V"],
    hue: Float[Tensor, "V"],
) -> Float[Tensor, "V 3 H W"]:
    """Factors of brightness, of contrast about the mean luma and of chroma, hue in turns, and then the power gamma.

    Hue turns chroma about the grey axis at constant luma, so that all but gamma is one affine map per image, applied
    at once and clamped once.
    """
    device = images.device
    ycc_from_rgb = torch.tensor(_YCC, device=device)
    mean_luma = images.mean((2, 3)) @ ycc_from_rgb[0]
    brightness, contrast, saturation, gamma, hue = (
        factor.to(device) for factor in (brightness, contrast, saturation, gamma, hue)
    )
    cosine, sine = saturation * (2 * torch.pi * hue).cos(), saturation * (2 * torch.pi * hue).sin()
    zero, one = torch.zeros_like(hue), torch.ones_like(hue)
    turned = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1).view(-1, 3, 3)
    rgb_from_rgb = (brightness * contrast)[:, None, None] * (ycc_from_rgb.inverse() @ turned @ ycc_from_rgb)
    offset = (1 - contrast) * brightness * mean_luma
    mapped = torch.baddbmm(offset[:, None, None], rgb_from_rgb, images.flatten(2)).view_as(images)
    return mapped.clamp_(0, 1).log_().mul_(gamma[:, None, None, None]).exp_()  # a power; twice as fast as pow


def compress(images: Float[Tensor, "V 3 H W"], quality: Int[Tensor, "V"]) -> Float[Tensor, "V 3 H W"]:
    """What JPEG at a quality of 1-100 leaves of each image: 8 x 8 blocks, chroma at half the resolution."""
    height, width = images.shape[2:]
    device = images.device
    ycc_from_rgb = torch.tensor(_YCC, device=device)
    padded = F.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = (ycc_from_rgb @ padded.flatten(2)).view_as(padded).mul_(255)
    luma = _quantised(ycc[:, :1] - 128, _steps(_LUMA_STEPS, quality).to(device)) + 128
    chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2), _steps(_CHROMA_STEPS, quality).to(device))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = (ycc_from_rgb.inverse() @ torch.cat([luma, chroma], dim=1).flatten(2)).view_as(padded).div_(255)
    return rgb[..., :height, :width].clamp_(0, 1)


def blur(image: Float[Tensor, "3 H W"], scale: float, upwards: str) -> Float[Tensor, "3 H W"]:
    """The image made smaller by `scale` < 1 and enlarged again, by "bicubic" or "bilinear" interpolation."""
    height, width = image.shape[1:]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(small, (height, width), mode=upwards, antialias=True, align_corners=False)[0].clamp_(0, 1)


def _within(limits: tuple[float, float], draw: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * draw


def _steps(table: tuple[int, ...], quality: Int[Tensor, "V"]) -> Float[Tensor, "V 64"]:
    """The quantisation table at a quality, scaled as the Independent JPEG Group's library does."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return ((torch.tensor(table) * percent[:, None] + 50) // 100).clamp(1, 255).float()


def _quantised(planes: Float[Tensor, "V C H W"], steps: Float[Tensor, "V 64"]) -> Float[Tensor, "V C H W"]:
    """The planes with the cosine coefficients of their 8 x 8 blocks rounded to multiples of `steps`."""
    basis = _cosine_basis().to(planes.device)
    folded = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    coefficients = folded.flatten(4) @ basis.mT
    steps = steps[:, None, None, None]
    rounded = coefficients.div_(steps).round_().mul_(steps) @ basis
    return rounded.unflatten(4, (8, 8)).transpose(3, 4).flatten(4).flatten(2, 3)


def _cosine_basis() -> Float[Tensor, "64 64"]:
    """Rows: the orthonormal two-dimensional cosines of an 8 x 8 block, in the order of the tables."""
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)
    rows = (torch.pi / 8 * (place + 0.5) * frequency).cos() / 2
    rows[0] /= 2**0.5
    return torch.kron(rows, rows)
