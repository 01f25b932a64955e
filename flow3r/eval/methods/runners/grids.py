"""Where the loaders of outside methods put the pixels of an image: exactly, as one affine map for each image.

All of them resize with Pillow, which maps the image [0, W] x [0, H] onto the new one, and then crop whole pixels.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

PATCH = 14  # pixels, of VGGT and of the π³ family
VGGT_WIDTH = 518  # pixels
PI3_PIXELS = 255_000  # at most, of an image


@dataclass(frozen=True)
class Grid:
    """`size` (H, W); `from_image` maps homogeneous pixels of the upright original, with half-integer centres, to it."""

    size: tuple[int, int]
    from_image: Float[np.ndarray, "3 3"]


def dust3r_grid(size: tuple[int, int], long_side: int = 512) -> Grid:
    """`load_images` of dust3r/utils/image.py, which CUT3R has as well, for an image of `size` (H, W).

    The long side becomes `long_side`, then the middle is cut to multiples of 16, a square to 4:3; for the models of
    224 pixels the short side becomes 224, then the middle is cut to a square.
    """
    height, width = size
    longest = max(height, width)
    wanted = round(long_side * max(width / height, height / width)) if long_side == 224 else long_side
    new_width, new_height = (round(side * wanted / longest) for side in (width, height))
    middle_x, middle_y = new_width // 2, new_height // 2
    if long_side == 224:
        half_width = half_height = min(middle_x, middle_y)
    else:
        half_width, half_height = (2 * middle_x) // 16 * 8, (2 * middle_y) // 16 * 8
        if new_width == new_height:
            half_height = 3 * half_width / 4
    left, top, right, bottom = (
        round(edge)
        for edge in (middle_x - half_width, middle_y - half_height, middle_x + half_width, middle_y + half_height)
    )
    return _placed(size, (new_height, new_width), (bottom - top, right - left), top, left)


def vggt_grid(size: tuple[int, int]) -> Grid:
    """`load_and_preprocess_images` of vggt/utils/load_fn.py in its mode "crop", for an image of `size` (H, W).

    The width becomes 518 and the height the nearest multiple of 14, of which the middle 518 pixels are kept.
    """
    height, width = size
    resized = round(height * (VGGT_WIDTH / width) / PATCH) * PATCH
    kept = min(resized, VGGT_WIDTH)
    return _placed(size, (resized, VGGT_WIDTH), (kept, VGGT_WIDTH), (resized - kept) // 2, 0)


def pi3_grid(first: tuple[int, int], size: tuple[int, int]) -> Grid:
    """`load_images_as_tensor` of pi3/utils/basic.py, which Flow3r has as well, for an image of `size` (H, W).

    All images are stretched to the grid that the `first` one chooses: multiples of 14 near its shape, within 255,000
    pixels.
    """
    height, width = first
    scale = math.sqrt(PI3_PIXELS / (width * height))
    columns, rows = round(width * scale / PATCH), round(height * scale / PATCH)
    while columns * PATCH * rows * PATCH > PI3_PIXELS:
        if columns / rows > width / height:
            columns -= 1
        else:
            rows -= 1
    target = (max(1, rows) * PATCH, max(1, columns) * PATCH)
    return _placed(size, target, target, 0, 0)


def _placed(size: tuple[int, int], resized: tuple[int, int], kept: tuple[int, int], top: int, left: int) -> Grid:
    """`kept` pixels from (top, left) of an image of `size` that was made `resized`; all (H, W)."""
    affine = np.diag([resized[1] / size[1], resized[0] / size[0], 1.0])
    affine[:2, 2] = -left, -top
    return Grid(kept, affine)
