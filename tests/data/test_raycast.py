"""First hits of rays: known distances, hills against a dense search, and nothing in front of what was hit."""

import torch
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.furnish import draw_scenes
from flow3r.data.raycast import FACES, FAR, FLOOR_FACE, SLOTS, SOLIDS, Sight, cast, cast_depth, ground_height
from flow3r.data.scenes import sight
from flow3r.geometry.se3 import invert

FIRST = dict(zip(("box", "ellipsoid", "cylinder"), (0, SLOTS[0], SLOTS[0] + SLOTS[1])))
KINDS = [kind for kind, slots in zip(FIRST, SLOTS) for _ in range(slots)]


def stand(
    solid: str | None = None,
    half: tuple[float, float, float] = (1, 1, 1),
    position: tuple[float, float, float] = (0, 0, 0),
    outdoors: bool = False,
    waves: Tensor | None = None,
) -> Sight:
    """A camera 1 m above the floor y = 0 in the middle of a room of 4 x 2 x 6 m, or outdoors, and one upright solid."""
    world_from_camera = torch.eye(4)
    world_from_camera[1, 3] = -1.0
    world_from_solid = torch.eye(4).repeat(SOLIDS, 1, 1)
    halves, active = torch.ones(1, SOLIDS, 3), torch.zeros(1, SOLIDS, dtype=torch.bool)
    if solid is not None:
        active[0, FIRST[solid]] = True
        halves[0, FIRST[solid]] = torch.tensor(half)
        world_from_solid[FIRST[solid], :3, 3] = torch.tensor(position)
    motions = torch.cat([world_from_camera[None], invert(world_from_solid) @ world_from_camera])
    up = torch.tensor([[0.0, -1.0, 0.0]])
    return Sight(
        solid_from_camera=motions[None, :, :3],
        low=torch.tensor([[-FAR, -FAR, -FAR]] if outdoors else [[-2.0, -2.0, -3.0]]),
        high=torch.tensor([[FAR, 0.0, FAR]] if outdoors else [[2.0, 0.0, 3.0]]),
        open_sky=torch.tensor([outdoors]),
        waves=torch.zeros(1, 3, 4) if waves is None else waves,
        half=halves,
        active=active,
        light=up,
        solid_light=up[:, None].expand(1, SOLIDS, 3),
    )


def look(at: Sight, *slopes: tuple[float, float]) -> list[tuple[float, int, int]]:
    """Depth, solid and face along rays (x, y, 1)."""
    rays = torch.cat([torch.tensor(slopes), torch.ones(len(slopes), 1)], dim=1).T[None].contiguous()
    hits = cast(at, rays)
    torch.testing.assert_close(cast_depth(at, rays), hits.depth)
    return [(round(float(t), 4), int(s), int(f)) for t, s, f in zip(hits.depth[0], hits.solid[0], hits.face[0])]


def test_walls_floor_and_ceiling_are_where_they_stand() -> None:
    assert look(stand(), (0, 0), (1, 0), (-1, 0), (0, 1), (0, -0.5)) == [
        (3.0, 0, 5),  # ahead, +z
        (2.0, 0, 1),  # right, +x
        (2.0, 0, 0),  # left
        (1.0, 0, FLOOR_FACE),  # the floor is down, at +y
        (2.0, 0, 2),  # the ceiling
    ]


def test_flat_ground_and_sky() -> None:
    near, far, sky = look(stand(outdoors=True), (0, 0.5), (0.3, 0.1), (0, -0.2))
    assert near == (2.0, 0, FLOOR_FACE) and far == (10.0, 0, FLOOR_FACE)
    assert sky[0] == float("inf") and sky[1] == 0


def test_each_solid_is_met_at_its_surface() -> None:
    ahead, size, flat = (0.0, -1.0, 2.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.25)
    assert look(stand("box", flat, ahead), (0.01, 0.01), (0.245, 0.01), (0.3, 0.01)) == [
        (1.75, FIRST["box"] + 1, 4),  # the face towards -z
        (1.75, FIRST["box"] + 1, 4),
        (3.0, 0, 5),  # past it
    ]
    assert look(stand("ellipsoid", flat, ahead), (0, 0), (0.3, 0)) == [(1.75, FIRST["ellipsoid"] + 1, 4), (3.0, 0, 5)]
    assert look(stand("cylinder", size, ahead), (0, 0.01))[0][:2] == (1.5, FIRST["cylinder"] + 1)
    top = look(stand("cylinder", size, (0.0, 0.0, 2.0)), (0, 0.25))[0]
    assert top == (2.0, FIRST["cylinder"] + 1, 2)  # from above: its cap, towards -y


def test_rays_exactly_along_a_face_are_decided_too() -> None:
    """The slope to that face is zero, of either sign: inside the slab the solid is met, outside it is not."""
    ahead = (0.0, -1.0, 2.0)
    for kind in ("box", "cylinder"):
        for zero in (0.0, -0.0):
            assert look(stand(kind, (0.5, 0.5, 0.5), ahead), (zero, zero))[0][:2] == (1.5, FIRST[kind] + 1)
        beside = stand(kind, (0.5, 0.5, 0.5), (0.0, -0.4, 2.0))  # its top is 0.1 m below the eye
        assert look(beside, (0.0, 0.0)) == [(3.0, 0, 5)]


def test_what_is_behind_the_camera_is_not_seen() -> None:
    assert look(stand("box", (0.5, 0.5, 0.5), (0.0, -1.0, -2.0)), (0, 0)) == [(3.0, 0, 5)]


def test_light_from_above_brightens_what_faces_up() -> None:
    rays = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, -0.5, 1.0]]).T[None].contiguous()
    hits = cast(stand(), rays)
    floor, wall, ceiling = hits.shade[0].tolist()
    assert floor > wall > ceiling > 0 and floor <= 1
    torch.testing.assert_close(hits.cosine[0], torch.tensor([0.5**0.5, 1.0, 0.5 / 1.25**0.5]))


def test_hills_are_met_where_a_dense_search_meets_them() -> None:
    generator = torch.Generator().manual_seed(3)
    number = 2 * torch.pi / torch.tensor([5.0, 8.0, 13.0])
    heading = torch.rand(3, generator=generator) * 6.28
    waves = torch.stack([0.12 / number, number * heading.cos(), number * heading.sin(), heading], dim=-1)[None]
    hills = stand(outdoors=True, waves=waves)
    slopes = torch.rand(400, 2, generator=generator) * torch.tensor([1.6, 0.7]) - torch.tensor([0.8, 0.1])
    rays = torch.cat([slopes, torch.ones(400, 1)], dim=1)
    found = cast(hills, rays.T[None].contiguous())

    t = torch.linspace(0.01, 40, 8000)
    points = rays[:, None] * t[:, None] + torch.tensor([0.0, -1.0, 0.0])
    below = points[..., 1] > -ground_height(waves, points[None, ..., 0], points[None, ..., 2])[0]
    first = torch.where(below.any(1), t[below.float().argmax(1)], torch.inf)
    near = first < 39
    assert near.sum() > 200
    torch.testing.assert_close(found.depth[0][near], first[near], atol=0.006, rtol=0)  # the step is 0.005
    assert (found.depth[0][~near] > 38).all()
    assert (found.face[0][near] == FLOOR_FACE).all()


def inside_something(half: Tensor, active: Tensor, from_camera: Tensor, points: Tensor) -> Tensor:
    """(B n): whether points of camera axes lie clearly inside an active solid."""
    found = torch.zeros(points.shape[:2], dtype=torch.bool)
    for k, kind in enumerate(KINDS):
        motion = from_camera[:, k]
        unit = (points @ motion[:, :3, :3].mT + motion[:, None, :3, 3]) / half[:, None, k]
        radius = {
            "box": unit.abs().amax(-1),
            "ellipsoid": unit.norm(dim=-1),
            "cylinder": torch.maximum(unit[..., ::2].norm(dim=-1), unit[..., 1].abs()),
        }[kind]
        found |= (radius < 0.99) & active[:, k, None]
    return found


def test_nothing_stands_before_the_first_hit() -> None:
    """The bounding cones lose no hit: no point on the way to the hit is inside of anything."""
    scenes = draw_scenes(range(40), 1, (64, 64), WorldsConfig(), 1.0)
    here = sight(scenes, torch.arange(40), torch.zeros(40, dtype=torch.long))
    rays = torch.cat([torch.rand(40, 2, 60) * 1.6 - 0.8, torch.ones(40, 1, 60)], dim=1)
    hits = cast(here, rays)
    assert (hits.solid > 0).float().mean() > 0.1
    from_camera = invert(scenes.world_from_solid[:, 0]) @ scenes.world_from_camera[:, :1]
    for share in torch.linspace(0.02, 0.995, 40):
        before = (rays * (share * hits.depth.clamp_max(50))[:, None]).mT
        assert not inside_something(scenes.half, scenes.active, from_camera, before).any()
    assert hits.face.min() >= 0 and hits.face.max() < FACES
    assert ((hits.shade > 0) & (hits.shade <= 1)).all() and (hits.cosine <= 1 + 1e-4).all()
