"""What one sample looks like beside the truth: depth, errors and points, after the similarity that the metric fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.frame import Frame
from flow3r.data.frame import Sequence as FrameSequence
from flow3r.data.transforms import resize_image
from flow3r.draw import Orbit, colourise_depth, draw_points, orbit_of, points_along, sheet
from flow3r.draw.points import LARGEST_SIDE
from flow3r.errors import InputError
from flow3r.eval.frames import labels_on_grid
from flow3r.eval.samples import Sample, read_sample
from flow3r.export.cameras import frusta
from flow3r.geometry.align import umeyama
from flow3r.geometry.camera import unproject
from flow3r.geometry.rigid import predicted_intrinsics
from flow3r.geometry.se3 import invert, nearest_rotation, transform_maps, transform_points
from flow3r.geometry.stitch import move_cameras, similarity
from flow3r.metrics.points import LEAST_POINTS, spread
from flow3r.types import Views

LARGEST_ERROR = 0.1  # of s: errors from here on have the last colour; twice the threshold of F@5
ERROR_RAMP = ((1.0, 1.0, 1.0), (0.99, 0.83, 0.55), (0.93, 0.44, 0.26), (0.7, 0.07, 0.2), (0.3, 0.0, 0.2))
UNKNOWN = 0.75  # grey: the truth is unknown there; black: the prediction is missing
VIEWPOINTS = ((0.0, 10.0), (-40.0, 20.0), (40.0, 40.0))  # azimuth and elevation in degrees, ours
CLOUD_SIZE = (360, 480)
CLOUD_POINTS = 400_000  # ours: of each cloud at most, about two for a pixel
CLOSER = 1.25  # ours: the ball that shows 90 % of the points leaves a wide margin above flat scenes
CLOSING = 1.5  # ours: points are drawn so many times their pixel's width, so that surfaces seen aslant stay closed
MOST_LAYERS = 60  # ours: points over each other, on average of a picture, from which on some are left out
MAP_HEIGHT = 150  # pixels of a depth or error map
MOST_MAPS = 4  # views of which they are shown
THUMBNAIL = 120  # pixels: height of an input frame
TRUTH_COLOUR = (0.35, 0.35, 0.35)


@dataclass(frozen=True)
class Shown:
    """One draw as the page shows it: its frames, a method's sample if there is one, and the truth on its grid (B = 1).

    Of the truth only the labels are read, which may be absent; colours come from the frames.
    """

    frames: Sequence[Frame]
    sample: Sample | None = None
    truth: Views | None = None


def read_shown(
    sequence: FrameSequence, frames: Sequence[int], sample: str | Path, farthest: float | None = None
) -> Shown:
    """A draw as stage 2 sees it: frames of a sequence with their labels brought to the grid of the sample's file.

    Depth from `farthest` on is not scored, and taken as unknown. Without a sample that can be read there are the frames
    alone. Raises InputError for frames that cannot be read.
    """
    read = list(sequence.frames(frames))
    try:
        found = read_sample(sample)
    except InputError:
        return Shown(read)
    if found.frames.tolist() != list(frames):
        return Shown(read)
    truth = labels_on_grid(read, found.grid_from_image, found.size)
    if truth.depth is not None and farthest is not None:
        truth = replace(truth, depth=torch.where(truth.depth < farthest, truth.depth, 0.0))
    return Shown(read, found, truth)


@dataclass(frozen=True)
class Cloud:
    """Points of N views with their colours and widths, and the cameras that saw them, in one world.

    NaN where there is no point or no camera. `width` is what a pixel spans at the point's depth.
    """

    points: Float[Tensor, "N H W 3"]
    width: Float[Tensor, "N H W"]
    colours: Float[Tensor, "N H W 3"]
    world_from_camera: Float[Tensor, "N 4 4"]
    intrinsics: Float[Tensor, "N 3 3"]


@dataclass(frozen=True)
class Placed:
    """A method's cloud in the world of the truth, and the true one on the same grid, if there is depth."""

    cloud: Cloud
    depth: Float[Tensor, "N H W"]  # as predicted; 0 where there is none
    aligned_by: str  # what the similarity was fitted to
    truth: Cloud | None = None
    true_depth: Float[Tensor, "N H W"] | None = None
    error: Float[Tensor, "N H W"] | None = None  # in units of s; NaN where the truth is unknown, inf where no point


def place(shown: Shown) -> Placed | None:
    """The sample in the true world, by the similarity that the metric fits to all points, or else by the cameras.

    Without true cameras, or with one alone, the world is the first camera's and the unit its median depth. None without
    a sample, or with one that cannot be aligned.
    """
    if shown.sample is None or shown.truth is None:
        return None
    prediction, truth = shown.sample.prediction(), shown.truth
    local, points = prediction.local_points[0].double(), prediction.world_points[0].double()
    poses = prediction.world_from_camera[0].double()
    true_cloud = _true_cloud(shown)
    fit, aligned_by = _similarity(points, poses, local, truth, true_cloud)
    if fit is None:
        return None
    scale = torch.linalg.det(fit[:3, :3]) ** (1 / 3)
    known_lens = truth.intrinsics is not None
    lens = truth.intrinsics[0].double() if known_lens else predicted_intrinsics(prediction)[0].double()
    moved = transform_maps(fit, points.flatten(0, 1)).view_as(points)
    width = (scale * local[..., 2]).nan_to_num(0, 0, 0).clamp_min(0) / lens[:, None, None, 0, 0]
    colours = images_on_grid(shown.frames, shown.sample.grid_from_image, shown.sample.size).movedim(1, -1)
    cloud = Cloud(moved.float(), width.float(), colours, move_cameras(fit, poses).float(), lens.float())
    depth = local[..., 2].nan_to_num(0, 0, 0).clamp_min(0).float()
    if true_cloud is None:
        return Placed(cloud, depth, aligned_by)
    known = true_cloud.points.isfinite().all(-1)
    distance = (moved - true_cloud.points.double()).norm(dim=-1) / spread(true_cloud.points[known].double())
    error = torch.where(known, distance.nan_to_num(torch.inf), torch.nan).float()
    return Placed(cloud, depth, aligned_by, true_cloud, truth.depth[0], error)


def _similarity(
    points: Tensor, poses: Tensor, local: Tensor, truth: Views, true_cloud: Cloud | None
) -> tuple[Tensor | None, str]:
    if true_cloud is not None:
        both = points.isfinite().all(-1) & true_cloud.points.isfinite().all(-1)
        if both.sum() < LEAST_POINTS:
            return None, ""
        return similarity(*umeyama(points[both], true_cloud.points[both].double())), "the points"
    given = poses.isfinite().all(-1).all(-1)
    if truth.world_from_camera is not None and given.sum() > 1:
        return _camera_similarity(poses[given], truth.world_from_camera[0].double()[given]), "the cameras"
    z = local[0, ..., 2]
    z = z[z > 0]
    if not len(z) or not given[0]:
        return None, ""
    return torch.diag(torch.cat([(1 / z.median()).expand(3), z.new_ones(1)])) @ invert(poses[0]), "the first camera"


def _camera_similarity(poses: Float[Tensor, "N 4 4"], true: Float[Tensor, "N 4 4"]) -> Float[Tensor, "4 4"]:
    """Turned as all cameras are on the whole, then scaled and moved onto their centres.

    Centres alone leave clouds of cameras on a line turned about it by any angle.
    """
    rotation = nearest_rotation((true[:, :3, :3] @ poses[:, :3, :3].mT).sum(0))
    centre, true_centre = poses[:, :3, 3].mean(0), true[:, :3, 3].mean(0)
    reach, true_reach = (p[:, :3, 3].std(0, correction=0).norm() for p in (poses, true))
    scale = true_reach / reach if reach > 0 and true_reach > 0 else torch.ones_like(reach)
    return similarity(scale, rotation, true_centre - scale * (rotation @ centre))


def _true_cloud(shown: Shown) -> Cloud | None:
    truth = shown.truth
    if truth.depth is None or truth.intrinsics is None or truth.world_from_camera is None:
        return None
    depth, lens, poses = truth.depth[0], truth.intrinsics[0].float(), truth.world_from_camera[0].float()
    known: Bool[Tensor, "N H W"] = depth > 0 if truth.valid is None else (depth > 0) & truth.valid[0]
    if known.sum() < LEAST_POINTS:
        return None
    points = transform_maps(poses, unproject(torch.where(known, depth, torch.nan), lens))
    colours = images_on_grid(shown.frames, shown.sample.grid_from_image, shown.sample.size).movedim(1, -1)
    return Cloud(points, depth / lens[:, None, None, 0, 0], colours, poses, lens)


def images_on_grid(
    frames: Sequence[Frame], grid_from_image: Float[np.ndarray, "N 3 3"], size: tuple[int, int]
) -> Float[Tensor, "N 3 H W"]:
    """The frames as the grid of a sample crops and resizes them, to the nearest original pixel; grey outside."""
    pictures = []
    for frame, affine in zip(frames, grid_from_image, strict=True):
        corners = np.linalg.inv(affine) @ np.array([[0, size[1]], [0, size[0]], [1, 1]], dtype=np.float64)
        (left, right), (top, bottom) = np.rint(corners[:2]).astype(int)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        height, width = frame.image.shape[:2]
        crop = np.full((bottom - top, right - left, 3), 128, dtype=np.uint8)
        inside = np.s_[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        part = frame.image[inside]
        y, x = max(-top, 0), max(-left, 0)
        crop[y : y + part.shape[0], x : x + part.shape[1]] = part
        pictures.append(torch.from_numpy(resize_image(crop, size)).movedim(-1, 0).float() / 255)
    return torch.stack(pictures)


def shown_views(count: int) -> list[int]:
    """Of which of a draw's views maps are shown: the first, the last and some between them."""
    return sorted({round(view) for view in np.linspace(0, count - 1, min(MOST_MAPS, count))})


def frame_strip(frames: Sequence[Frame]) -> Float[Tensor, "3 H W"]:
    """All input frames in one row."""
    return sheet([[_at_height(torch.from_numpy(f.image).movedim(-1, 0).float() / 255, THUMBNAIL) for f in frames]])


def truth_maps(placed: Placed) -> Float[Tensor, "3 H W"]:
    """Images above true depth of some views."""
    views = shown_views(len(placed.depth))
    images = [_at_height(placed.cloud.colours[view].movedim(-1, 0), MAP_HEIGHT) for view in views]
    if placed.true_depth is None:
        return sheet([images])
    return sheet([images, [_at_height(colourise_depth(placed.true_depth[view]), MAP_HEIGHT) for view in views]])


def prediction_maps(placed: Placed) -> Float[Tensor, "3 H W"]:
    """Predicted depth, in the colours of the true one if there is one, above the error of the points of some views."""
    views = shown_views(len(placed.depth))
    like = [None if placed.true_depth is None else placed.true_depth[view] for view in views]
    rows = [[_at_height(colourise_depth(placed.depth[v], like=known), MAP_HEIGHT) for v, known in zip(views, like)]]
    if placed.error is not None:
        rows.append([_at_height(colourise_error(placed.error[view]), MAP_HEIGHT) for view in views])
    return sheet(rows)


def colourise_error(error: Float[Tensor, "H W"], largest: float = LARGEST_ERROR) -> Float[Tensor, "3 H W"]:
    """White at 0, darker and redder up to `largest`; grey where NaN (the truth is unknown), black where infinite."""
    ramp = error.new_tensor(ERROR_RAMP)
    place = (error.nan_to_num(0, 0) / largest).clamp(0, 1) * (len(ramp) - 1)
    index = place.floor().long().clamp_max(len(ramp) - 2)
    colour = torch.lerp(ramp[index], ramp[index + 1], (place - index)[..., None])
    colour = torch.where(error.isinf()[..., None], 0.0, colour)
    return torch.where(error.isnan()[..., None], UNKNOWN, colour).movedim(-1, 0)


def orbit_around(cloud: Cloud) -> Orbit:
    """The cameras from which a cloud, and what is compared with it, is looked at."""
    return orbit_of(cloud.points.flatten(0, 2), cloud.world_from_camera[_given(cloud)]).closer(CLOSER)


def cloud_pictures(
    cloud: Cloud, orbit: Orbit, colour: tuple[float, float, float], true_cameras: Cloud | None = None
) -> list[Float[Tensor, "3 H W"]]:
    """The cloud from VIEWPOINTS of an orbit, its cameras in a colour, the true ones in grey."""
    finite = cloud.points.isfinite().all(-1)
    every = max(1, -(-int(finite.sum()) // CLOUD_POINTS))
    points, colours = cloud.points[finite][::every], cloud.colours[finite][::every]
    width = CLOSING * every**0.5 * cloud.width[finite][::every]
    for cameras, paint in ((cloud, colour), (true_cameras, TRUTH_COLOUR)):
        if cameras is not None:
            lines = points_along(_frusta(cameras, 0.08 * orbit.reach))
            points = torch.cat([points, lines])
            colours = torch.cat([colours, colours.new_tensor(paint).expand(len(lines), 3)])
            width = torch.cat([width, width.new_full((len(lines),), 0.006 * orbit.reach)])
    pictures = []
    for viewpoint in VIEWPOINTS:
        camera = orbit.camera(*viewpoint, CLOUD_SIZE)
        few = slice(None, None, _crowding(points, width, *camera))
        pictures.append(draw_points(points[few], colours[few], *camera, CLOUD_SIZE, 1.0, width[few], supersample=2))
    return pictures


def _crowding(
    points: Float[Tensor, "n 3"],
    width: Float[Tensor, "n"],
    world_from_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
) -> int:
    """Of how many points one is enough: wrong clouds may put most points next to the camera, each over many pixels."""
    seen = transform_points(invert(world_from_camera), points)
    seen, width = seen[seen[:, 2] > 0], width[seen[:, 2] > 0]
    sides = (intrinsics[0, 0] * width / seen[:, 2]).clamp(1, LARGEST_SIDE)
    reach = seen.new_tensor([CLOUD_SIZE[1], CLOUD_SIZE[0]]) / 2 + sides[:, None]
    on_picture = (intrinsics[0, 0] * seen[:, :2].abs() / seen[:, 2:] < reach).all(-1)
    covered = float((sides[on_picture] ** 2).sum()) / (CLOUD_SIZE[0] * CLOUD_SIZE[1])
    return max(1, round(covered / MOST_LAYERS))


def _given(cloud: Cloud) -> Bool[Tensor, "N"]:
    """Which cameras there are."""
    return cloud.world_from_camera.isfinite().all(-1).all(-1)


def _frusta(cloud: Cloud, length: float) -> Float[Tensor, "n 2 3"]:
    height, width = cloud.points.shape[1:3]
    corners = cloud.points.new_tensor([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]])
    given = _given(cloud)
    rays = length * corners @ torch.linalg.inv(cloud.intrinsics[given]).mT
    return torch.from_numpy(frusta(cloud.world_from_camera[given].numpy(), rays.numpy())).flatten(0, 1)


def _at_height(picture: Float[Tensor, "3 H W"], height: int) -> Float[Tensor, "3 h w"]:
    """Averaged, or enlarged by whole pixels, to a height."""
    width = max(1, round(picture.shape[2] * height / picture.shape[1]))
    if height < picture.shape[1]:
        return F.interpolate(picture[None], (height, width), mode="area")[0]
    return F.interpolate(picture[None], (height, width), mode="nearest-exact")[0]
