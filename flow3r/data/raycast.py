"""Where rays first meet a scene: a room or an open ground, and rigid boxes, ellipsoids and cylinders in it.

Every solid is, in its own scaled coordinates, one of three unit solids: the cube [-1, 1]³, the unit ball, the cylinder
of unit radius and |y| <= 1. A ray of camera coordinates (x, y, 1) times t has z-depth t in all of them, since scaling
is affine. All V views of a call are cast at once. Rays are first tested against a bounding ellipsoid of each solid, a
quadratic form of (x, y, 1) and hence one matrix product; only the few (solid, ray) pairs that pass are intersected.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.types import OnDevice

SLOTS = (4, 3, 3)  # boxes, ellipsoids, cylinders that a scene has room for, in this order
SOLIDS = sum(SLOTS)
# Squared radius of a ball that holds the unit solid, inflated against rounding in the quadratic form.
_BOUNDS = (3.02, 1.01, 2.02)
FACES = 6
FLOOR_FACE = 3  # faces of a box are -x, +x, -y, +y, -z, +z; +y is down
NEAREST = 1e-3  # metres: nothing is closer to a camera
FAR = 60.0  # metres: where an open ground ends and the sky begins
_GROUND_ROUNDS, _STEPS_A_ROUND = 8, 5  # rays that have arrived leave after a round
_AMBIENT = 0.45  # light that reaches a surface turned away from the light, as a share


@dataclass(frozen=True)
class Sight(OnDevice):
    """What V cameras have before them at their own moments. A scene's things are repeated for each of its cameras."""

    solid_from_camera: Float[Tensor, "V Q 3 4"]  # camera axes to metric axes of the world, then of the K = Q - 1 solids
    low: Float[Tensor, "V 3"]  # corners of the room; of an open ground, far away but for the floor at high[1]
    high: Float[Tensor, "V 3"]
    open_sky: Bool[Tensor, "V"]
    waves: Float[Tensor, "V M 4"]  # height field of the floor: amplitude, wave vector (x, z), phase
    half: Float[Tensor, "V K 3"]  # half extents of the solids
    active: Bool[Tensor, "V K"]
    light: Float[Tensor, "V 3"]  # unit vector towards the light, world
    solid_light: Float[Tensor, "V K 3"]  # the same in the solids' own axes, as when they were at rest

    @property
    def centre(self) -> Float[Tensor, "V 3"]:
        """Of the cameras, in the world."""
        return self.solid_from_camera[:, 0, :, 3]

    def unit_from_camera(self) -> Float[Tensor, "V K 3 4"]:
        """From camera axes to the coordinates of the unit solids."""
        return self.solid_from_camera[:, 1:] / self.half[..., None]


@dataclass(frozen=True)
class Hits(OnDevice):
    """The nearest surface along R rays of V views."""

    depth: Float[Tensor, "V R"]  # z-depth; of the sky, infinite
    solid: Int[Tensor, "V R"]  # 0 room, ground or sky; k + 1 for solid k
    face: Int[Tensor, "V R"]  # which of its six faces; curved surfaces are divided by their normal's largest axis
    cosine: Float[Tensor, "V R"]  # between ray and normal
    shade: Float[Tensor, "V R"]  # Lambertian factor in (0, 1], fixed to the surface


def cast_depth(sight: Sight, rays: Float[Tensor, "V 3 R"]) -> Float[Tensor, "V R"]:
    """The z-depth of the nearest surface along rays (x, y, 1); infinite where they leave into the sky."""
    depth, _, _ = _background(sight, rays)
    for pixel, t, *_ in _entries(sight, rays):
        depth.view(-1).scatter_reduce_(0, pixel, t, "amin")
    return depth


def cast(sight: Sight, rays: Float[Tensor, "V 3 R"]) -> Hits:
    """The nearest surface along rays (x, y, 1), with all that its colour depends on."""
    depth, face, directions = _background(sight, rays)
    cosine, shade = _background_shading(sight, rays, depth, face, directions)
    solid = torch.zeros_like(face)
    entries, units = list(_entries(sight, rays)), sight.unit_from_camera()
    for pixel, t, *_ in entries:
        depth.view(-1).scatter_reduce_(0, pixel, t, "amin")
    lengths = rays.square().sum(1).sqrt().view(-1)
    for kind, (pixel, t, row, slope) in enumerate(entries):
        first = (t == depth.view(-1)[pixel]).nonzero()[:, 0]
        pixel, t, row, slope = pixel[first], t[first], row[first], [s[first] for s in slope]
        point = [o + t * s for o, s in zip(_rows(units[..., 3], row), slope)]
        normal, faces = _UNIT_NORMALS[kind](point)
        # Of the covector `normal` in unit coordinates, metric lengths are those of normal / half.
        scaled = [n / h for n, h in zip(normal, _rows(sight.half, row))]
        length = _dot(scaled, scaled).sqrt()
        lit = _dot(scaled, _rows(sight.solid_light, row)) / length
        solid.view(-1)[pixel] = row % SOLIDS + 1
        face.view(-1)[pixel] = faces
        cosine.view(-1)[pixel] = _dot(normal, slope).abs() / (length * lengths[pixel])
        shade.view(-1)[pixel] = _lambert(lit)
    return Hits(depth, solid, face, cosine, shade)


def ground_height(
    waves: Float[Tensor, "B M 4"], x: Float[Tensor, "B *n"], z: Float[Tensor, "B *n"]
) -> Float[Tensor, "B *n"]:
    """How far the height field rises above the floor at (x, z)."""
    height = torch.zeros_like(x)
    for wave in waves.unbind(1):
        amplitude, along_x, along_z, phase = (value.view(-1, *[1] * (x.ndim - 1)) for value in wave.unbind(1))
        height = height + amplitude * torch.sin(along_x * x + along_z * z + phase)
    return height


def _lambert(cosine: Tensor) -> Tensor:
    """Half-Lambertian shading, smooth over the whole sphere of normals."""
    return _AMBIENT + (1 - _AMBIENT) * (0.5 + 0.5 * cosine)


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _rows(table: Float[Tensor, "V K 3"], row: Int[Tensor, "m"]) -> list[Tensor]:
    """Three contiguous columns of the rows of a per-solid table."""
    return list(table.flatten(0, 1).T.contiguous().index_select(1, row))


def _background(sight: Sight, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth and face of the room, open ground or sky around everything, and the rays' directions in the world."""
    directions = sight.solid_from_camera[:, 0, :, :3] @ rays
    inverse = directions.reciprocal()
    t = torch.maximum((sight.low - sight.centre)[..., None] * inverse, (sight.high - sight.centre)[..., None] * inverse)
    hilly = (sight.waves[..., 0] != 0).any(-1).nonzero()[:, 0]
    if len(hilly):
        downwards = directions[hilly, 1] > 0
        ground = _march(sight.waves[hilly], sight.centre[hilly], sight.high[hilly, 1], directions[hilly])
        t[hilly, 1] = torch.where(downwards, ground, torch.minimum(ground, t[hilly, 1]))
    tx, ty, tz = t.unbind(1)
    depth = torch.minimum(torch.minimum(tx, ty), tz)
    axis = torch.where(depth == ty, 1, torch.where(depth == tx, 0, 2))
    positive = (
        torch.where(depth == ty, directions[:, 1], torch.where(depth == tx, directions[:, 0], directions[:, 2])) > 0
    )
    face = 2 * axis + positive
    if len(hilly):
        face[hilly] = torch.where(depth[hilly] == ground, FLOOR_FACE, face[hilly])
    sky = sight.open_sky[:, None] & (face != FLOOR_FACE)
    return depth.masked_fill_(sky, torch.inf), face, directions


def _background_shading(
    sight: Sight, rays: Tensor, depth: Tensor, face: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine to the ray and shade of walls, floor, ceiling and ground."""
    axis = (face // 2)[:, None]
    lengths = rays.square().sum(1).sqrt()
    cosine = directions.gather(1, axis)[:, 0].abs() / lengths
    inward = torch.stack([sight.light, -sight.light], dim=-1).flatten(1)  # towards the light along each face's inside
    shade = _lambert(inward).gather(1, face)
    hilly = (sight.waves[..., 0] != 0).any(-1).nonzero()[:, 0]
    if len(hilly):
        t = depth[hilly].clamp_max(2 * FAR)
        x = sight.centre[hilly, 0, None] + t * directions[hilly, 0]
        z = sight.centre[hilly, 2, None] + t * directions[hilly, 2]
        slope_x, slope_z = _slopes(sight.waves[hilly], x, z)
        normal = torch.stack([-slope_x, -torch.ones_like(slope_x), -slope_z], dim=1)
        normal = normal / normal.square().sum(1, keepdim=True).sqrt()
        floor = face[hilly] == FLOOR_FACE
        across = (normal * directions[hilly]).sum(1).abs() / lengths[hilly]
        lit = _lambert((normal * sight.light[hilly, :, None]).sum(1))
        cosine[hilly] = torch.where(floor, across, cosine[hilly])
        shade[hilly] = torch.where(floor, lit, shade[hilly])
    return cosine, shade


def _slopes(waves: Tensor, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the height, positive where it rises: towards -y."""
    slope_x, slope_z = torch.zeros_like(x), torch.zeros_like(x)
    for wave in waves.unbind(1):
        amplitude, along_x, along_z, phase = wave[..., None].unbind(1)
        rise = amplitude * torch.cos(along_x * x + along_z * z + phase)
        slope_x, slope_z = slope_x + along_x * rise, slope_z + along_z * rise
    return slope_x, slope_z


def _march(waves: Tensor, centre: Tensor, floor: Tensor, directions: Tensor) -> Tensor:
    """Depth of the height field y = floor - height along rays, infinite beyond FAR.

    Along a ray the angle of every wave is linear in t, so that the gap g between ray and ground has a curvature of at
    most M, and g + g' s - M s² / 2 bounds it from below: a step s to the root of that never passes through a crest, and
    near the ground it is Newton's.
    """
    amplitude, number, phase = waves[..., 0], waves[..., 1:3], waves[..., 3]
    reach = amplitude.sum(1)[:, None]
    dy = directions[:, 1]
    above = (floor - centre[:, 1])[:, None]
    alive = ((dy > 1e-4) | (above < reach)).view(-1).nonzero()[:, 0]
    scene = alive // dy.shape[1]
    first = (number @ centre[:, ::2, None])[..., 0] + phase
    turn = (number @ directions[:, ::2]).movedim(1, 0).flatten(1)[:, alive]
    rays = _GroundRays(amplitude.T[:, scene], first.T[:, scene], turn, above[scene, 0], dy.reshape(-1)[alive])
    start = ((rays.above - reach[scene, 0]) / rays.fall.clamp_min(1e-4)).clamp(0.0, FAR)
    t = torch.where(rays.fall > 0, start, 0.0)
    met = torch.zeros_like(t, dtype=torch.bool)
    active, here = torch.arange(len(t), device=t.device), rays
    for _ in range(_GROUND_ROUNDS):
        if len(active) == 0:
            break
        near = t[active]
        for _ in range(_STEPS_A_ROUND):
            step, gap = here.step(near)
            near = near + step
        t[active] = near
        arrived = gap.abs() < 1e-5 * (1 + near)
        met[active] = arrived
        still = (~arrived & (near < FAR)).nonzero()[:, 0]
        active, here = active[still], here.of(still)
    met &= (t > NEAREST) & (t < FAR)
    depth = torch.full_like(dy, torch.inf)
    depth.view(-1)[alive] = torch.where(met, t, torch.inf)
    return depth


@dataclass(frozen=True)
class _GroundRays:
    """Rays over a height field: height at depth t is Σ amplitude sin(angle + turn t)."""

    amplitude: Float[Tensor, "M n"]
    angle: Float[Tensor, "M n"]
    turn: Float[Tensor, "M n"]
    above: Float[Tensor, "n"]  # of the camera over the floor
    fall: Float[Tensor, "n"]

    def step(self, t: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """How far it is safe to go on from t, and the height above the ground there."""
        angle, rise = self.angle + self.turn * t, self.amplitude * self.turn
        gap = self.above - t * self.fall - (self.amplitude * angle.sin()).sum(0)
        opening = -self.fall - (rise * angle.cos()).sum(0)
        bend = (rise * self.turn).sum(0).clamp_min(1e-6)
        root = (opening.square() + 2 * bend * gap.clamp_min(0)).sqrt()
        return torch.where(opening < 0, 2 * gap / (root - opening), (opening + root) / bend).clamp_max(FAR), gap

    def of(self, index: Int[Tensor, "k"]) -> "_GroundRays":
        """Some of the rays."""
        return _GroundRays(*(getattr(self, field.name).index_select(-1, index) for field in fields(self)))


def _entries(sight: Sight, rays: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, list[Tensor]]]:
    """Per kind of solid: flat ray index, depth of entry, row v K + k, and direction in unit coordinates, of every ray
    that meets a solid of that kind."""
    count = rays.shape[2]
    x, y = rays[:, 0], rays[:, 1]
    monomials = torch.stack([x * x, y * y, torch.ones_like(x), x * y, x, y], dim=1)
    units = sight.unit_from_camera()
    near = (_cones(sight, units) @ monomials) > 0
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    table = units.reshape(-1, 12).T.contiguous()
    first = 0
    for slots, enter in zip(SLOTS, (_enter_box, _enter_ball, _enter_cylinder)):
        index = near[:, first : first + slots].reshape(-1).nonzero()[:, 0]
        rank = index // count
        view = rank // slots
        row = view * SOLIDS + first + rank - view * slots
        pixel = index + (view - rank) * count
        a, b, c, ox, d, e, f, oy, g, h, i, oz = table.index_select(1, row)
        px, py = flat_x[pixel], flat_y[pixel]
        slope = [a * px + b * py + c, d * px + e * py + f, g * px + h * py + i]
        t, hit = enter([ox, oy, oz], slope)
        hit = (hit & (t > NEAREST)).nonzero()[:, 0]
        yield pixel[hit], t[hit], row[hit], [s[hit] for s in slope]
        first += slots


def _cones(sight: Sight, units: Tensor) -> Float[Tensor, "V K 6"]:
    """Coefficients of x², y², 1, xy, x, y of a form that is positive on the lines that may meet the solid."""
    linear, origin = units[..., :3], units[..., 3]
    bound = torch.cat([linear.new_full((slots,), b) for slots, b in zip(SLOTS, _BOUNDS)])
    along = (linear.mT @ origin[..., None])[..., 0]
    excess = origin.square().sum(-1) - bound
    form = along[..., :, None] * along[..., None, :] - excess[..., None, None] * (linear.mT @ linear)
    # The deepest point of the bounding ellipsoid. The rows of `linear` are orthogonal, of lengths 1 / half.
    depth_of_unit = linear[..., 2] * sight.half.square()
    deepest = bound.sqrt() * depth_of_unit.norm(dim=-1) - (depth_of_unit * origin).sum(-1)
    absent = ~sight.active | (deepest < NEAREST)
    xx, yy, zz = form.diagonal(dim1=-2, dim2=-1).unbind(-1)
    xy, xz, yz = 2 * form[..., 0, 1], 2 * form[..., 0, 2], 2 * form[..., 1, 2]
    cones = torch.stack([xx, yy, zz, xy, xz, yz], dim=-1)
    nowhere = torch.eye(6, device=cones.device)[2]
    return torch.where(absent[..., None], -nowhere, cones)


def _inverse(slope: Tensor) -> Tensor:
    """1 / slope, but finite along a slab, where it decides between never and always by the side of the origin."""
    return slope.reciprocal().clamp(-1e9, 1e9)


def _enter_box(origin: list[Tensor], slope: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Entry into the cube: the last of three slabs to be entered, before the first is left."""
    enter, leave = None, None
    for o, s in zip(origin, slope):
        inverse = _inverse(s)
        middle, reach = -o * inverse, inverse.abs()
        enter = middle - reach if enter is None else torch.maximum(enter, middle - reach)
        leave = middle + reach if leave is None else torch.minimum(leave, middle + reach)
    return enter, enter <= leave


def _enter_ball(origin: list[Tensor], slope: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Entry into the unit ball, by way of the foot of the perpendicular from its centre, which rounds well."""
    squared = _dot(slope, slope)
    foot = -_dot(origin, slope) / squared
    nearest = [o + foot * s for o, s in zip(origin, slope)]
    room = 1 - _dot(nearest, nearest)
    return foot - (room.clamp_min(0) / squared).sqrt(), room >= 0


def _enter_cylinder(origin: list[Tensor], slope: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Entry into the cylinder: the later of round side and caps."""
    (ox, oy, oz), (sx, sy, sz) = origin, slope
    squared = (sx * sx + sz * sz).clamp_min(1e-20)
    foot = -(ox * sx + oz * sz) / squared
    nearest_x, nearest_z = ox + foot * sx, oz + foot * sz
    room = 1 - nearest_x * nearest_x - nearest_z * nearest_z
    reach = (room.clamp_min(0) / squared).sqrt()
    inverse = _inverse(sy)
    middle, half = -oy * inverse, inverse.abs()
    enter = torch.maximum(foot - reach, middle - half)
    return enter, (room >= 0) & (enter <= torch.minimum(foot + reach, middle + half))


def _largest_axis(vector: list[Tensor]) -> Int[Tensor, "m"]:
    """The face of a cube towards which a vector points."""
    x, y, z = (v.abs() for v in vector)
    use_y = (y >= x) & (y >= z)
    use_x = (x >= z) & ~use_y
    axis = torch.where(use_y, 1, torch.where(use_x, 0, 2))
    value = torch.where(use_y, vector[1], torch.where(use_x, vector[0], vector[2]))
    return 2 * axis + (value > 0)


def _box_normal(point: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    face = _largest_axis(point)
    sign = (2 * (face % 2) - 1).to(point[0])
    return [sign * (face // 2 == axis) for axis in range(3)], face


def _ball_normal(point: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    return point, _largest_axis(point)


def _cylinder_normal(point: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    x, y, z = point
    cap = y * y > x * x + z * z
    zero = torch.zeros_like(x)
    normal = [torch.where(cap, zero, x), torch.where(cap, y.sign(), zero), torch.where(cap, zero, z)]
    return normal, _largest_axis(normal)


_UNIT_NORMALS = (_box_normal, _ball_normal, _cylinder_normal)
