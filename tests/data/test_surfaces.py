"""The look of surfaces: it is theirs, whoever looks; detail too fine for a pixel fades; images lie in place."""

import dataclasses

import torch
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.raycast import SKY, cast
from flow3r.data.scenes import Scenes, draw_scenes
from flow3r.data.surfaces import colour_of
from flow3r.geometry.se3 import invert, transform_points


def drawn(textures: int = 0, views: int = 2, outdoor: float = 0.35) -> Scenes:
    return draw_scenes(range(30), views, (64, 64), WorldsConfig(outdoor_share=outdoor), 1.0, textures=textures)


def wearing_image(scenes: Scenes, size: float | None = None) -> Scenes:
    """Every surface carries texture 0, in squares of `size` metres, without shade: lit along every normal alike."""
    surfaces = dataclasses.replace(
        scenes.surfaces,
        image=torch.zeros_like(scenes.surfaces.image),
        image_size=scenes.surfaces.image_size if size is None else torch.full_like(scenes.surfaces.image_size, size),
        light=torch.zeros_like(scenes.surfaces.light),
    )
    return dataclasses.replace(scenes, surfaces=surfaces)


def look(scenes: Scenes, rays: Tensor, pixel: float, textures: tuple[Tensor, ...] = ()) -> tuple[Tensor, Tensor]:
    """Colours and identities along rays; one pixel spans `pixel` radians."""
    depth, identity = cast(scenes.shapes, rays)
    spans = torch.full((len(rays),), pixel)
    return colour_of(scenes.shapes, scenes.surfaces, rays, depth, identity, spans, textures), identity


def test_a_point_has_one_colour_from_every_side() -> None:
    scenes = drawn()
    rays = torch.rand(30, 2, 300, 2) - 0.5
    depth, identity = cast(scenes.shapes, rays)
    still = (identity[:, 0] == 0) & depth[:, 0].isfinite()
    points = torch.cat([rays[:, 0], torch.ones(30, 300, 1)], -1) * torch.where(still, depth[:, 0], 1.0)[..., None]
    pose = scenes.shapes.world_from_camera
    there = transform_points(invert(pose[:, 1]) @ pose[:, 0], points)
    back = torch.stack([rays[:, 0], there[..., :2] / there[..., 2:].clamp_min(0.1)], dim=1)
    colour, seen = look(scenes, back, 1e-6)
    reached, _ = cast(scenes.shapes, back)
    same = still & (seen[:, 1] == 0) & ((reached[:, 1] - there[..., 2]).abs() < 1e-3 * there[..., 2])
    same &= ~scenes.shapes.outdoor[:, None]  # the ground's depth is found by bisection: close, not exact
    assert same.sum() > 1000
    assert (colour[:, 0] - colour[:, 1]).abs().amax(-1)[same].quantile(0.999) < 0.01


def test_detail_finer_than_a_pixel_fades_to_a_plain_colour() -> None:
    scenes, rays = drawn(outdoor=0.0), torch.rand(30, 2, 200, 2) - 0.5
    scenes = dataclasses.replace(
        scenes, surfaces=dataclasses.replace(scenes.surfaces, light=torch.zeros_like(scenes.surfaces.light))
    )
    sharp, _ = look(scenes, rays, 1e-4)
    blurred, identity = look(scenes, rays, 10.0)
    one_face = identity == 0
    assert (sharp - blurred)[one_face].abs().mean() > 0.05
    # All that is left per face is its blend of three colours at equal weights, so a room shows at most six of them.
    for b in range(5):
        assert len((blurred[b][one_face[b]] * 1000).round().unique(dim=0)) <= 6


def test_colours_are_colours() -> None:
    colour, _ = look(drawn(), torch.randn(30, 2, 200, 2), 0.01)
    assert colour.isfinite().all() and colour.min() >= 0 and colour.max() <= 1


def test_the_sky_is_bluish_and_lighter_than_shadow() -> None:
    rays = torch.rand(30, 2, 200, 2) - 0.5
    colour, identity = look(drawn(outdoor=1.0), rays, 0.01)
    sky = colour[identity == SKY]
    assert len(sky) > 100
    assert (sky[:, 2] >= sky[:, 0]).all() and sky.min() >= 0.3


def test_images_lie_on_surfaces_at_their_size_mirrored_at_their_borders() -> None:
    """A texture that brightens from left to right becomes a triangle wave of twice its size along the wall."""
    ramp = torch.linspace(0, 1, 256).expand(3, 8, 256).contiguous()
    scenes = wearing_image(drawn(outdoor=0.0), size=0.5)
    rays = torch.rand(30, 2, 300, 2) - 0.5
    colour, identity = look(scenes, rays, 1e-5, (ramp,))
    depth, _ = cast(scenes.shapes, rays)
    camera = torch.cat([rays, torch.ones(30, 2, 300, 1)], -1) * depth[..., None]
    points = transform_points(scenes.shapes.world_from_camera, camera)
    inside = (points - scenes.shapes.room_centre[:, None, None]) / scenes.shapes.room_half[:, None, None]
    axis = inside.abs().argmax(-1)
    along = torch.where(axis == 0, points[..., 2], points[..., 0]) / 0.5
    expected = (along - 2 * (along / 2 + 0.5).floor()).abs() * 0.55  # in the shade: ambient light alone
    background = identity == 0
    assert (colour[..., 0] - expected).abs()[background].quantile(0.99) < 0.01


def test_a_far_image_shows_its_mean() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    board = board.float().expand(3, 64, 64).contiguous()
    scenes, rays = wearing_image(drawn(), size=1.0), torch.rand(30, 2, 200, 2) - 0.5
    far, identity = look(scenes, rays, 5.0, (board,))
    near, _ = look(scenes, rays, 1e-5, (board,))
    hit = identity != SKY
    assert (far[hit] - 0.5 * 0.55).abs().max() < 1e-4
    assert near[hit].std() > 0.05


def test_images_of_any_shape_and_number() -> None:
    textures = (torch.rand(3, 5, 33), torch.rand(3, 1, 1), torch.rand(3, 40, 7))
    colour, _ = look(drawn(textures=3), torch.rand(30, 2, 100, 2) - 0.5, 0.01, textures)
    assert colour.isfinite().all() and colour.min() >= 0 and colour.max() <= 1
