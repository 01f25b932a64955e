"""The look of surfaces: patterns without seams, images where they should lie, detail too fine for a pixel fades."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.raycast import FACES, SOLIDS
from flow3r.data.surfaces import (
    BASES,
    DETAILS,
    LEVELS,
    TILE,
    Look,
    colour_of,
    level_corner,
    make_atlas,
    paint,
    procedural_atlas,
    procedural_patterns,
    tile_of_image,
)

WALL_AHEAD = 5  # +z
COUNT = FACES * (1 + SOLIDS)


def plain_look(tiles_a_metre: float, cell: int = 0) -> Look:
    """One scene, all of whose faces show the base pattern upright, x to the right and y downwards, as it is."""
    along = torch.zeros(1, COUNT, 2, 2, 3)
    along[..., 0, 0] = along[..., 1, 1] = tiles_a_metre
    return Look(
        cell=torch.full((1, COUNT, 2), cell),
        along=along,
        offset=torch.zeros(1, COUNT, 2, 2),
        colour=torch.full((1, COUNT, 3), 0.5),
        mixing=torch.eye(3).expand(1, COUNT, 3, 3),
        detail=torch.zeros(1, COUNT, 3),
    )


def on_the_wall(
    look: Look, atlas: Tensor, x: Tensor, y: Tensor, depth: float, focal: float, cosine: float = 1.0
) -> Tensor:
    """Colours (3 n) of a wall that faces a camera at the origin, at metric places (x, y) on it."""
    motions = torch.eye(4)[:3].expand(1, 1 + SOLIDS, 3, 4)
    painted = paint(look, torch.tensor([0]), motions, torch.tensor([False]), torch.tensor([focal]))
    same = torch.ones_like(x)
    column = torch.full_like(x, WALL_AHEAD, dtype=torch.long)
    return colour_of(painted, atlas, column, x / depth, y / depth, depth * same, cosine * same, same)


def test_patterns_are_the_same_in_every_run_and_within_range() -> None:
    patterns = procedural_patterns()
    assert len(patterns) == BASES + DETAILS
    for pattern in patterns:
        assert pattern.shape == (3, TILE, TILE)
        assert pattern.min() >= 0 and pattern.max() <= 1 and pattern.std() > 0.05
    procedural_patterns.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(patterns, procedural_patterns()))


def test_patterns_repeat_without_a_seam() -> None:
    """Across the border, neighbours differ no more than neighbours within do."""
    for pattern in procedural_patterns():
        for axis in (1, 2):
            within = pattern.diff(dim=axis).abs()
            across = (pattern.select(axis, 0) - pattern.select(axis, TILE - 1)).abs()
            assert across.mean() <= within.mean(dim=tuple({0, 1, 2} - {axis})).max() + 0.02


def test_base_patterns_are_coarse_and_colourful() -> None:
    for pattern in procedural_patterns()[:BASES]:
        assert pattern.std(dim=(1, 2)).min() > 0.08  # in each channel
        assert pattern.diff(dim=2).abs().mean() < 0.05  # a few blobs a tile: neighbours are alike


def test_an_atlas_holds_every_level_with_its_wrapped_border() -> None:
    patterns = [torch.rand(3, TILE, TILE), torch.rand(3, TILE, TILE)]
    atlas = make_atlas(patterns)[0]
    cell_height = atlas.shape[1] // 2
    for number, pattern in enumerate(patterns):
        for level in range(LEVELS):
            expected = F.avg_pool2d(pattern, 2**level)
            row, column = level_corner(level)
            top, side = number * cell_height + row, TILE >> level
            torch.testing.assert_close(atlas[:, top : top + side, column : column + side], expected)
            torch.testing.assert_close(atlas[:, top - 1, column : column + side], expected[:, -1])
            torch.testing.assert_close(atlas[:, top : top + side, column + side], expected[:, :, 0])


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (5, 300)])
def test_an_image_becomes_a_tile_that_mirrors_itself(size: tuple[int, int]) -> None:
    tile = tile_of_image(torch.rand(3, *size))
    assert tile.shape == (3, TILE, TILE) and tile.min() >= 0 and tile.max() <= 1
    assert torch.equal(tile, tile.flip(1)) and torch.equal(tile, tile.flip(2))


def test_an_image_of_the_tiles_own_size_is_kept() -> None:
    image = torch.rand(3, TILE // 2, TILE // 2)
    torch.testing.assert_close(tile_of_image(image)[:, : TILE // 2, : TILE // 2], image)


def test_a_pattern_lies_on_a_wall_at_its_scale() -> None:
    """Seen from close by, the wall shows the pattern as bilinear interpolation of the wrapped pattern does."""
    pattern = tile_of_image(torch.rand(3, 32, 32))
    look, atlas = plain_look(tiles_a_metre=0.5), make_atlas([torch.rand(3, TILE, TILE), pattern])
    look = Look(**{**look.__dict__, "cell": torch.ones_like(look.cell)})
    x, y = torch.rand(2, 500) * 6 - 3
    colour = on_the_wall(look, atlas, x, y, depth=2.0, focal=1e6)
    wrapped = F.pad(pattern[None], (1, 1, 1, 1), mode="circular")
    place = (torch.stack([x, y], dim=-1) * 0.5) % 1.0 * TILE + 1
    expected = F.grid_sample(wrapped, (2 * place / (TILE + 2) - 1)[None, None], align_corners=False)[0, :, 0]
    torch.testing.assert_close(colour, expected, atol=2e-3, rtol=0)


def test_detail_finer_than_a_pixel_fades() -> None:
    board = ((torch.arange(TILE)[:, None] // 2 + torch.arange(TILE) // 2) % 2).float().expand(3, TILE, TILE)
    atlas, look = make_atlas([board.contiguous()]), plain_look(tiles_a_metre=1.0)
    x, y = torch.rand(2, 500)
    contrast = [on_the_wall(look, atlas, x, y, 1.0, focal).std() for focal in (1e4, 200.0, 60.0, 15.0, 1.0)]
    assert contrast[0] > 0.3 and contrast[-1] < 1e-3
    assert all(sharper >= softer - 1e-4 for sharper, softer in itertools.pairwise(contrast))
    tilted = on_the_wall(look, atlas, x, y, 1.0, 200.0, cosine=0.1).std()
    assert tilted < 0.8 * contrast[1]  # and so it does on a surface seen at a slant


def test_colours_are_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    atlas, look = procedural_atlas(torch.device("cpu")), plain_look(0.3, cell=4)
    vivid = Look(**{**look.__dict__, "mixing": 3 * torch.randn(1, COUNT, 3, 3, generator=generator)})
    colour = on_the_wall(vivid, atlas, torch.randn(300), torch.randn(300), 2.0, 100.0)
    assert colour.isfinite().all() and colour.min() >= 0 and colour.max() <= 1 and colour.std() > 0.1
