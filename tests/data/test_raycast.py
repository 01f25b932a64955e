"""First hits of rays: known distances, and no thing in front of the one that was hit."""

import torch
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.raycast import BACKGROUND, SHAPES, SKY, Shapes, cast
from flow3r.data.scenes import draw_scenes

KINDS = len(SHAPES)


def empty_room(outdoor: bool = False) -> Shapes:
    """A room of 4 x 2 x 6 m, or a flat ground at y = 0; the camera stands at 1 m above the floor, at the centre."""
    pose = torch.eye(4).repeat(1, 1, 1, 1)
    pose[0, 0, 1, 3] = -1.0
    return Shapes(
        outdoor=torch.tensor([outdoor]),
        room_centre=torch.tensor([[0.0, -1.0, 0.0]]),
        room_half=torch.tensor([[2.0, 1.0, 3.0]]),
        ground_waves=torch.zeros(1, 3, 4),
        present=torch.zeros(1, KINDS, dtype=torch.bool),
        half=torch.ones(1, KINDS, 3),
        world_from_object=torch.eye(4).repeat(1, 1, KINDS, 1, 1),
        world_from_camera=pose,
    )


def with_object(kind: str, half: tuple[float, float, float], position: tuple[float, float, float]) -> Shapes:
    """The room with one object of a kind, upright."""
    room, slot = empty_room(), SHAPES.index(kind)
    room.present[0, slot] = True
    room.half[0, slot] = torch.tensor(half)
    room.world_from_object[0, 0, slot, :3, 3] = torch.tensor(position)
    return room


def one_ray(shapes: Shapes, x: float, y: float) -> tuple[float, int]:
    depth, identity = cast(shapes, torch.tensor([[[[x, y]]]]))
    return round(float(depth), 4), int(identity)


def test_walls_floor_and_ceiling_are_where_they_stand() -> None:
    assert one_ray(empty_room(), 0.0, 0.0) == (3.0, BACKGROUND)  # the wall ahead
    assert one_ray(empty_room(), 1.0, 0.0) == (2.0, BACKGROUND)  # the wall to the right
    assert one_ray(empty_room(), -1.0, 0.0) == (2.0, BACKGROUND)
    assert one_ray(empty_room(), 0.0, 1.0) == (1.0, BACKGROUND)  # the floor is down, at +y
    assert one_ray(empty_room(), 0.0, -0.5) == (2.0, BACKGROUND)  # the ceiling


def test_ground_and_sky() -> None:
    depth, identity = cast(empty_room(outdoor=True), torch.tensor([[[[0.0, 0.5], [0.3, 0.1], [0.0, -0.2]]]]))
    torch.testing.assert_close(depth[0, 0, :2], torch.tensor([2.0, 10.0]), atol=0, rtol=2e-3)
    assert depth[0, 0, 2].isinf()
    assert identity.flatten().tolist() == [BACKGROUND, BACKGROUND, SKY]


def test_each_primitive_is_hit_at_its_surface() -> None:
    here = (0.0, -1.0, 2.0)
    slot = {kind: SHAPES.index(kind) + 1 for kind in SHAPES}
    assert one_ray(with_object("box", (0.5, 0.5, 0.25), here), 0.0, 0.0) == (1.75, slot["box"])
    assert one_ray(with_object("ellipsoid", (0.5, 0.5, 0.25), here), 0.0, 0.0) == (1.75, slot["ellipsoid"])
    assert one_ray(with_object("cylinder", (0.5, 0.5, 0.5), here), 0.0, 0.0) == (1.5, slot["cylinder"])
    assert one_ray(with_object("cylinder", (0.5, 0.5, 0.5), (0.0, 0.0, 2.0)), 0.0, 0.25) == (2.0, slot["cylinder"])
    beside = 0.245  # x = 0.49 at the middle: within the box, past the ellipsoid's curve
    assert one_ray(with_object("box", (0.5, 0.5, 0.25), here), beside, 0.0)[1] == slot["box"]
    assert one_ray(with_object("ellipsoid", (0.5, 0.5, 0.25), here), 0.3, 0.0) == (3.0, BACKGROUND)
    assert one_ray(with_object("box", (0.5, 0.5, 0.25), (0.0, -1.0, -2.0)), 0.0, 0.0) == (3.0, BACKGROUND)  # behind


def inside_something(shapes: Shapes, points: Tensor) -> Tensor:
    """(B n): whether world points lie inside a present object, in view 0, clearly."""
    found = torch.zeros(points.shape[:2], dtype=torch.bool)
    for k, kind in enumerate(SHAPES):
        pose = shapes.world_from_object[:, 0, k]
        unit = ((points - pose[:, None, :3, 3]) @ pose[:, :3, :3]) / shapes.half[:, None, k]
        radius = {
            "box": unit.abs().amax(-1),
            "ellipsoid": unit.norm(dim=-1),
            "cylinder": torch.maximum(unit[..., ::2].norm(dim=-1), unit[..., 1].abs()),
        }[kind]
        found |= (radius < 0.99) & shapes.present[:, k, None]
    return found


def test_nothing_stands_before_the_first_hit() -> None:
    shapes = draw_scenes(range(40), 1, (64, 64), WorldsConfig(), 1.0).shapes
    rays = torch.rand(40, 1, 60, 2) * 1.6 - 0.8
    depth, _ = cast(shapes, rays)
    direction = torch.cat([rays, torch.ones(40, 1, 60, 1)], dim=-1)[:, 0]
    for share in torch.linspace(0.02, 0.995, 40):
        in_camera = direction * (share * depth[:, 0].clamp_max(50))[..., None]
        pose = shapes.world_from_camera[:, 0]
        before = in_camera @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
        assert not inside_something(shapes, before).any()
