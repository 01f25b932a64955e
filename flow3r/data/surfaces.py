"""The look of surfaces: mip-mapped patterns and images, laid on the faces of solids and fixed to them.

A face shows two layers. The base layer is a window of a colour pattern, or of one of the user's images, seen through a
colour matrix of its own; the detail layer is a finer pattern that lightens and darkens it. Coordinates on a face are
linear in the point of the surface, and the point is linear in depth and ray, so that a pixel's coordinates are
offset + depth · (matrix · ray), with offset and matrix from a small table per camera and face. All levels of all
patterns lie in one image, the atlas, so that one bilinear lookup serves all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.raycast import FACES, FLOOR_FACE
from flow3r.types import OnDevice

TILE = 256  # texels along a side of a pattern
LEVELS = 7  # TILE, TILE / 2, ... texels
_CELL_HEIGHT, _CELL_WIDTH = TILE + 8, TILE + TILE // 2 + 4  # all levels of a pattern, each with a border of one texel
BASES, DETAILS = 9, 12  # patterns of each kind in the atlas, the bases first
BASE_FEATURES = 7.0  # blobs along a side of a base pattern, about
_SHARPNESS = -0.25  # added to the mip level: above -1 the bilinear lookup does not alias


@dataclass(frozen=True)
class Look(OnDevice):
    """How the faces of the solids of B scenes look: S = 6 (1 + K) faces, those of room or ground first.

    Coordinates are in tiles: `along` maps a point in the solid's own metric axes (the world's, for the room) to them.
    """

    cell: Int[Tensor, "B S 2"]  # which pattern of the atlas, per layer
    along: Float[Tensor, "B S 2 2 3"]  # per layer, tiles per metre
    offset: Float[Tensor, "B S 2 2"]
    colour: Float[Tensor, "B S 3"]
    mixing: Float[Tensor, "B S 3 3"]  # colour per channel of the base layer, around 0.5
    detail: Float[Tensor, "B S 3"]  # colour per unit of the detail layer, around 0.5


@dataclass(frozen=True)
class Paint(OnDevice):
    """A look as cameras need it: one column per camera and face; rows are named where they are read."""

    table: Float[Tensor, "rows columns"]


def level_corner(level: int) -> tuple[int, int]:
    """Row and column, within a cell, of a level's first texel."""
    if level == 0:
        return 1, 1
    row = sum((TILE >> other) + 2 for other in range(1, level))
    return row + 1, TILE + 3


def make_atlas(patterns: Sequence[Float[Tensor, "3 TILE TILE"]]) -> Float[Tensor, "1 3 h w"]:
    """All levels of all patterns, which repeat at their borders, below each other in one image."""
    atlas = torch.zeros(1, 3, _CELL_HEIGHT * len(patterns), _CELL_WIDTH, device=patterns[0].device)
    levels = torch.stack(list(patterns))
    for level in range(LEVELS):
        row, column = level_corner(level)
        side = TILE >> level
        bordered = F.pad(levels, (1, 1, 1, 1), mode="circular")
        for cell, texels in enumerate(bordered):
            top = cell * _CELL_HEIGHT + row - 1
            atlas[0, :, top : top + side + 2, column - 1 : column + side + 1] = texels
        levels = F.avg_pool2d(levels, 2)
    return atlas


def tile_of_image(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 TILE TILE"]:
    """A user's image as a pattern: mirrored to the right and downwards, so that it repeats without a seam."""
    half = F.interpolate(image[None].float(), (TILE // 2, TILE // 2), mode="bilinear", antialias=True)[0].clamp(0, 1)
    wide = torch.cat([half, half.flip(2)], dim=2)
    return torch.cat([wide, wide.flip(1)], dim=1)


@cache
def procedural_atlas(device: torch.device) -> Float[Tensor, "1 3 h w"]:
    """The atlas of `procedural_patterns`, kept for the next call."""
    return make_atlas(procedural_patterns()).to(device)


@cache
def procedural_patterns() -> tuple[Float[Tensor, "3 TILE TILE"], ...]:
    """The patterns of every world: BASES of coloured blobs, then DETAILS from noise to tiles. The same in every run."""
    generator = torch.Generator().manual_seed(2026)
    bases = [_cells(generator, sites, softness) for sites in (36, 48, 64) for softness in (0.0015, 0.004)]
    bases += [_noise(generator, 3.0, low, 2.2) for low in (1.5, 2.5, 3.5)]
    return tuple(bases + _details(generator))


def _torus_distances(sites: Float[Tensor, "n 2"]) -> Float[Tensor, "n TILE TILE"]:
    """Squared distance of every texel of a repeating unit tile from every site."""
    place = (torch.arange(TILE) + 0.5) / TILE
    gap = (place - sites[..., None] + 0.5) % 1.0 - 0.5
    return gap[:, 1, :, None] ** 2 + gap[:, 0, None, :] ** 2


def _cells(generator: torch.Generator, count: int, softness: float) -> Tensor:
    """Voronoi cells in vivid colours, with soft borders."""
    distances = _torus_distances(torch.rand(count, 2, generator=generator))
    # A little noise in the distances bends the borders.
    bend = 0.012 * (_noise(generator, 2.0, 3.0, 1.0)[0] - 0.5)
    distances = (distances.sqrt() + bend * torch.randn(count, 1, 1, generator=generator)).square()
    colours = torch.rand(count, 3, generator=generator)
    return torch.einsum("nhw,nc->chw", (-distances / softness).softmax(0), colours)


def _noise(generator: torch.Generator, slope: float, low: float, contrast: float) -> Tensor:
    """Noise of three channels whose amplitude falls with frequency f as (1 + (f / low)²)^(-slope / 2), in [0, 1]."""
    f = torch.fft.fftfreq(TILE, 1 / TILE)
    radius = (f[:, None] ** 2 + f[None, : TILE // 2 + 1] ** 2).sqrt()
    spectrum = torch.fft.rfft2(torch.randn(3, TILE, TILE, generator=generator))
    spectrum = spectrum * (1 + (radius / low) ** 2) ** (-slope / 2) * (radius > 0)
    field = torch.fft.irfft2(spectrum, s=(TILE, TILE))
    field = field / field.std(dim=(1, 2), keepdim=True)
    return 0.5 + 0.5 * torch.tanh(0.5 * contrast * field)


def _details(generator: torch.Generator) -> list[Tensor]:
    """Fine patterns: three noises, wood, and eight that repeat."""
    place = (torch.arange(TILE) + 0.5) / TILE
    y, x = torch.meshgrid(place, place, indexing="ij")

    def wave(turns: Tensor, sharpness: float) -> Tensor:
        return torch.sigmoid(sharpness * torch.sin(2 * math.pi * turns))

    def grid(columns: int, rows: int, shift: float) -> Tensor:
        row = torch.floor(y * rows)
        gap_y = (y * rows - row - 0.5).abs()
        gap_x = ((x * columns + shift * (row % 2)) % 1.0 - 0.5).abs()
        return 1 - torch.sigmoid(40 * (torch.maximum(gap_x * rows / columns, gap_y) - 0.42))

    bent = _noise(generator, 3.0, 2.0, 1.0)[0]
    tones = torch.rand(16, 16, generator=generator).repeat_interleave(16, 0).repeat_interleave(16, 1)
    scattered = _torus_distances(torch.rand(60, 2, generator=generator)).amin(0).sqrt()
    made = [
        *(_noise(generator, slope, low, 1.6)[0] for slope, low in ((2.2, 4.0), (1.8, 8.0), (2.4, 16.0))),
        wave(8 * y + 1.5 * bent, 4.0),  # wood
        0.5 + (wave(4 * x, 12.0) - 0.5) * (2 * wave(4 * y, 12.0) - 1),  # checkers
        wave(8 * x, 8.0),  # stripes
        grid(4, 8, 0.5),  # bricks
        grid(6, 6, 0.0),  # tiles
        wave(8 * x, 4.0) * wave(8 * y, 4.0) * 1.2,  # weave
        torch.sigmoid(250 * (scattered - 0.035)),  # scattered dots
        torch.sigmoid(60 * (((x * 8 % 1 - 0.5) ** 2 + (y * 8 % 1 - 0.5) ** 2).sqrt() - 0.28)),  # dots in rows
        tones,  # panes of random grey
    ]
    return [pattern.clamp(0, 1).expand(3, TILE, TILE).contiguous() for pattern in made]


def paint(
    look: Look,
    scene: Int[Tensor, "V"],
    solid_from_camera: Float[Tensor, "V Q 3 4"],
    sky: Bool[Tensor, "V"],
    focal: Float[Tensor, "V"],
) -> Paint:
    """The look of V cameras' scenes as a table. `solid_from_camera` (Q = 1 + K) leads from camera axes to the metric
    axes of room and solids. Coordinates on faces of the `sky` (V) depend on the direction alone."""
    motion = solid_from_camera.repeat_interleave(FACES, dim=1)[:, :, None]  # V S 1 3 4
    along, offset = look.along[scene], look.offset[scene]
    matrix = along @ motion[..., :3]
    start = offset + (along @ motion[..., 3:])[..., 0]
    at_sky = torch.zeros(start.shape[:2], dtype=torch.bool, device=start.device)
    at_sky[:, :FACES] = sky[:, None]
    at_sky[:, FLOOR_FACE] = False
    start = torch.where(at_sky[..., None, None], offset, start)
    # Texels a metre, times the width of a pixel at depth 1, on a surface that faces the camera.
    texels = TILE * along.flatten(-2).norm(dim=-1) / math.sqrt(2) / focal[:, None, None]
    level = texels.log2() + _SHARPNESS
    top = (look.cell[scene] * _CELL_HEIGHT).to(start)
    rows = torch.cat(
        [
            matrix.flatten(2),  # 12
            start.flatten(2),  # 4
            level,  # 2
            top,  # 2
            look.colour[scene],  # 3
            look.mixing[scene].flatten(2),  # 9
            look.detail[scene],  # 3
        ],
        dim=2,
    )
    return Paint(rows.flatten(0, 1).T.contiguous())


def colour_of(
    painted: Paint,
    atlas: Float[Tensor, "1 3 h w"],
    column: Int[Tensor, "n"],
    x: Float[Tensor, "n"],
    y: Float[Tensor, "n"],
    depth: Float[Tensor, "n"],
    cosine: Float[Tensor, "n"],
    shade: Float[Tensor, "n"],
) -> Float[Tensor, "3 n"]:
    """The colour in [0, 1] along rays (x, y, 1) that hit, at `depth`, the face that `column` of the table names."""
    values = painted.table.index_select(1, column)
    # Half the tilt enters the level: between the long and the short side of a pixel's footprint.
    footprint = (depth * cosine.clamp_min(0.02).rsqrt()).log2()
    grids = []
    for layer in range(2):
        g = values[6 * layer : 6 * layer + 6]
        u = values[12 + 2 * layer] + depth * (g[0] * x + g[1] * y + g[2])
        v = values[13 + 2 * layer] + depth * (g[3] * x + g[4] * y + g[5])
        level = (values[16 + layer] + footprint).clamp(0, LEVELS - 1)
        grids.append((u - u.floor(), v - v.floor(), level, values[18 + layer]))
    base, detail = _lookup(atlas, grids)
    mixing = values[23:32].view(3, 3, -1)
    colour = values[20:23] + mixing[:, 0] * (base[0] - 0.5) + mixing[:, 1] * (base[1] - 0.5)
    colour = colour + mixing[:, 2] * (base[2] - 0.5) + values[32:35] * (detail[0] - 0.5)
    return colour.clamp(0, 1) * shade


def _lookup(atlas: Tensor, grids: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> list[Tensor]:
    """The atlas at (u, v, level, first row of the cell), linear between texels and between levels."""
    height, width = atlas.shape[2:]
    corners = atlas.new_tensor([level_corner(level) for level in range(LEVELS)])
    coordinates, blends = [], []
    for u, v, level, top in grids:
        lower = level.floor().clamp_max(LEVELS - 2)
        blends.append(level - lower)
        for step in range(2):
            chosen = lower.int() + step
            side = torch.exp2(math.log2(TILE) - step - lower)
            row, column = corners.index_select(0, chosen).unbind(1)
            along_x = (column + u * side) * (2 / width) - 1
            along_y = (top + row + v * side) * (2 / height) - 1
            coordinates.append(torch.stack([along_x, along_y], dim=-1))
    sampled = F.grid_sample(atlas, torch.stack(coordinates)[None], align_corners=False)[0]
    return [torch.lerp(sampled[:, 2 * k], sampled[:, 2 * k + 1], blend) for k, blend in enumerate(blends)]
