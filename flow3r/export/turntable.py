"""A video that goes round a reconstruction: its points in their colours, and where its cameras were."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flow3r.draw import Orbit, draw_points, orbit_of, points_along, to_bytes
from flow3r.errors import InputError
from flow3r.export.arrays import load_reconstruction
from flow3r.export.glb import FRUSTUM_COLOUR, frustum_segments
from flow3r.export.movie import check_movie, write_movie
from flow3r.export.ply import read_ply
from flow3r.export.points import check_choice, select_points
from flow3r.types import Reconstruction

CLOSING = 1.5  # ours: points are drawn so many times their spacing wide, so that surfaces seen aslant stay closed
NEIGHBOURS_OF = 2000  # points of a PLY whose nearest neighbours give the spacing of all
MOST_FRUSTA = 64  # ours: of more cameras an even choice is drawn
AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1), "-x": (-1, 0, 0), "-y": (0, -1, 0), "-z": (0, 0, -1)}


@dataclass(frozen=True)
class Turntable:
    """What was written: `encoder` is FFmpeg's name, of H.264 or, for .mp4 where there is none, mpeg4."""

    path: Path
    frames: int
    rate: int  # frames a second
    size: tuple[int, int]  # (H, W)
    encoder: str
    points: int


@dataclass(frozen=True)
class _Cloud:
    points: Float[Tensor, "n 3"]
    colours: Float[Tensor, "n 3"]
    diameter: Float[Tensor, "n"]
    orbit: Orbit


def render_turntable(
    source: Reconstruction | str | Path,
    out: str | Path,
    *,
    seconds: float = 6.0,
    rate: int = 25,
    size: tuple[int, int] = (480, 640),
    degrees: float = 360.0,
    elevation: float = 20.0,
    zoom: float = 1.0,
    up: str | None = None,
    cameras: bool = True,
    min_confidence: float = 0.0,
    confidence_percentile: float = 10.0,
    max_points: int = 500_000,
    supersample: int = 2,
) -> Turntable:
    """Write a video, .mp4 (H.264), .webm or .gif by the name of `out`, of a camera that goes round the scene.

    `source`: a Reconstruction, its folder or reconstruction.npz, or a .ply of points, which has no cameras to draw. The
    video begins as the scene's cameras look, raised by `elevation` degrees. `degrees`: 360 goes round once; less swings
    by that angle from side to side and ends where it began. `up`: x, y, z, -x, -y or -z of the world; by default the
    cameras' mean up, for a .ply -y as in those that flow3r writes. The thresholds choose points as in exports. The same
    arguments give the same bytes. Raises InputError for a source or an output that cannot be.
    """
    out = Path(out)
    check_movie(out, rate, size)
    check_choice(min_confidence, confidence_percentile, max_points)
    count = round(seconds * rate) if math.isfinite(seconds) else 0
    if count < 1 or zoom <= 0 or not 0 < degrees <= 360 or not abs(elevation) < 90 or supersample < 1:
        raise InputError(
            f"{seconds} s at {rate} a second, zoom {zoom}, {degrees} degrees, elevation {elevation}, supersample "
            f"{supersample}; expected at least one frame, zoom > 0, degrees in (0, 360], elevation within 90, "
            "supersample of at least 1"
        )
    if up is not None and up not in AXES:
        raise InputError(f"up is {up!r}; expected one of {', '.join(AXES)}")
    cloud = _cloud_of(source, up, zoom, cameras, min_confidence, confidence_percentile, max_points)
    pictures = _pictures(cloud, _azimuths(count, degrees), elevation, size, supersample)
    encoder = write_movie(out, pictures, rate, size)
    return Turntable(out, count, rate, size, encoder, len(cloud.points))


def _azimuths(count: int, degrees: float) -> list[float]:
    turns = [frame / count for frame in range(count)]
    if degrees == 360:
        return [360 * turn for turn in turns]
    return [0.5 * degrees * math.sin(2 * math.pi * turn) for turn in turns]


def _pictures(
    cloud: _Cloud, azimuths: list[float], elevation: float, size: tuple[int, int], supersample: int
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    for azimuth in azimuths:
        camera = cloud.orbit.camera(azimuth, elevation, size)
        picture = draw_points(cloud.points, cloud.colours, *camera, size, 1.0, cloud.diameter, supersample)
        yield to_bytes(picture).numpy()


def _cloud_of(
    source: Reconstruction | str | Path,
    up: str | None,
    zoom: float,
    cameras: bool,
    min_confidence: float,
    percentile: float,
    budget: int,
) -> _Cloud:
    if not isinstance(source, Reconstruction) and Path(source).suffix.lower() == ".ply":
        points, colours, diameter = _of_ply(Path(source), budget)
        poses, segments = torch.eye(4)[None], None
    else:
        scene = source if isinstance(source, Reconstruction) else _read(Path(source))
        points, colours, diameter = _of_reconstruction(scene, min_confidence, percentile, budget)
        poses, segments = torch.from_numpy(scene.world_from_camera).float(), _some_frusta(scene) if cameras else None
    orbit = orbit_of(points, poses)
    if up is not None:
        orbit = orbit.upright(orbit.focus.new_tensor(AXES[up]))
    orbit = orbit.closer(zoom)
    if segments is not None:
        lines = points_along(segments)
        colour = colours.new_tensor(FRUSTUM_COLOUR[:3]) / 255
        points, colours = torch.cat([points, lines]), torch.cat([colours, colour.expand(len(lines), 3)])
        diameter = torch.cat([diameter, diameter.new_full((len(lines),), 0.004 * orbit.reach)])
    return _Cloud(points, colours, diameter, orbit)


def _read(path: Path) -> Reconstruction:
    if path.is_file() and path.suffix.lower() != ".npz":
        raise InputError(f"{path}: cannot be drawn; expected a reconstruction.npz or its folder, or a .ply of points")
    return load_reconstruction(path)


def _of_reconstruction(
    scene: Reconstruction, min_confidence: float, percentile: float, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Points, colours, and diameters: what the pixels that each point stands for span at its depth."""
    chosen = select_points(scene, min_confidence=min_confidence, confidence_percentile=percentile, budget=budget)
    to_camera = chosen.positions - scene.world_from_camera[chosen.frames, :3, 3]
    depth = (to_camera * scene.world_from_camera[chosen.frames, :3, 2]).sum(-1)
    pixels = CLOSING * math.sqrt(chosen.above / len(chosen))
    diameter = pixels * depth / scene.intrinsics[chosen.frames, 0, 0]
    arrays = chosen.positions, chosen.colours.astype(np.float32) / 255, diameter
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in arrays)


def _some_frusta(scene: Reconstruction) -> Float[Tensor, "n 2 3"]:
    frusta = frustum_segments(scene)
    some = np.unique(np.linspace(0, len(frusta) - 1, min(MOST_FRUSTA, len(frusta))).round().astype(int))
    return torch.from_numpy(frusta[some]).float().flatten(0, 1)


def _of_ply(path: Path, budget: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, colours, and one diameter for all: the median distance of a point to its nearest neighbour."""
    from scipy.spatial import cKDTree

    positions, colours = read_ply(path)
    random = np.random.Generator(np.random.PCG64(0))
    if len(positions) > budget:
        some = np.sort(random.permutation(len(positions))[:budget])
        positions, colours = positions[some], colours[some]
    asked = positions[random.permutation(len(positions))[:NEIGHBOURS_OF]]
    spacing = cKDTree(positions).query(asked, k=2)[0][:, 1]
    known = spacing[np.isfinite(spacing) & (spacing > 0)]
    diameter = np.full(len(positions), CLOSING * np.median(known) if len(known) else 1.0)
    arrays = positions, colours.astype(np.float32) / 255, diameter
    return tuple(torch.from_numpy(array.astype(np.float32)) for array in arrays)
