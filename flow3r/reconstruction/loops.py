"""Loops: places that a path comes back to, found by how frames look and proved by predicting both visits together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.transforms import resize_image
from flow3r.geometry.camera import centred_intrinsics, focal_from_points, inside_image, project
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.geometry.stitch import PosedPoints, blend, close_loops, overlap_similarity
from flow3r.reconstruction.frames import Pixels
from flow3r.reconstruction.network import Network
from flow3r.reconstruction.record import Record
from flow3r.reconstruction.windows import Window

# Ours. Places that look alike are common, and a false loop costs more than a missed one.
THUMBNAIL = (12, 16)  # rows, columns
ALIKE = 0.7  # least correlation of the thumbnails of two frames that may see one place
SIDE = 6  # frames of either visit that are predicted together
SEEN_AGAIN = 0.3  # least share of a frame's pixels that are found, at their depth, in a frame of the other visit
SAME_DEPTH = 0.1  # relative difference
SAME_LOOK = 0.6  # least correlation of the brightness of what is found
FITS = 0.1  # largest median residual, relative to depth, of a visit as predicted with the other


@dataclass(frozen=True)
class Loop:
    """Two windows that saw one place, and the similarity that was measured between them."""

    first: int
    second: int
    first_from_second: Float[Tensor, "4 4"]


def correct_drift(
    network: Network, record: Record, world_from_window: Float[Tensor, "n 4 4"], views: int
) -> tuple[Float[Tensor, "N 4 4"], int]:
    """world_from_window of every frame with those loops closed that are found and proved, and how many these are.

    The correction goes over from window to window, so that no step is left where they meet. At most `views` frames are
    predicted at once.
    """
    windows = record.windows
    of_frames = world_from_window[windows]
    thumbnails = torch.from_numpy(np.stack([_thumbnail(colours) for colours in record.dense["colours"]]))
    candidates = find_candidates(thumbnails, windows)
    # Windows by their middle cameras: the worlds of their own may have their origins anywhere.
    members = [(windows == window).nonzero()[:, 0] for window in range(len(world_from_window))]
    middle = [int(frames[len(frames) // 2]) for frames in members]
    placed = torch.stack([of_frames[frame] @ record.poses[frame] for frame in middle])
    proved = [_prove(network, record, of_frames, placed, views, i, j) for i, j in candidates]
    loops = [loop for loop in proved if loop is not None]
    if not loops:
        return of_frames, 0
    pairs = torch.tensor([[loop.first, loop.second] for loop in loops])
    closed = close_loops(placed, pairs, torch.stack([loop.first_from_second for loop in loops]))
    middles = [float(frames.double().mean()) for frames in members]
    at = np.interp(np.arange(len(windows)), middles, np.arange(len(middles)))
    return blend(closed @ torch.linalg.inv(placed), torch.from_numpy(at)) @ of_frames, len(loops)


def _thumbnail(image: np.ndarray) -> Float[np.ndarray, "d"]:
    """A small grey image of zero mean and unit norm: products are correlations."""
    grey = resize_image(image, THUMBNAIL).mean(-1, dtype=np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1.0)


def find_candidates(thumbnails: Float[Tensor, "n d"], windows: Int[Tensor, "n"]) -> list[tuple[int, int]]:
    """Pairs of frames (i, j), i < j, that look alike though at least one whole window lies between theirs.

    For every window the pair that is most alike, if it is alike enough: at most one prediction per window to prove it.
    """
    found = []
    for window in range(2, int(windows.max()) + 1):
        here, earlier = (windows == window).nonzero()[:, 0], (windows <= window - 2).nonzero()[:, 0]
        likeness = thumbnails[earlier] @ thumbnails[here].T
        if likeness.max() >= ALIKE:
            i, j = divmod(int(likeness.argmax()), len(here))
            found.append((int(earlier[i]), int(here[j])))
    return found


def _prove(
    network: Network, record: Record, of_frames: Tensor, placed: Tensor, views: int, i: int, j: int
) -> Loop | None:
    """The loop between frames i and j, if a prediction of both visits together shows that they saw one place."""
    count, half = len(record.windows), max(1, min(SIDE, views // 2) // 2)
    visits = [list(range(max(0, k - half), min(count, k + half))) for k in (i, j)]
    frames = visits[0] + visits[1]
    pixels = Pixels(
        names=tuple(f"frame {frame}" for frame in frames),
        images=np.stack([record.dense["colours"][frame] for frame in frames]),
        valid=np.stack([record.dense["valid"][frame] for frame in frames]),
    )
    together = Window(0, len(frames), pixels, network.predict(pixels))
    middle = len(visits[0])
    parts = [together.posed_points(0, middle), together.posed_points(middle, len(frames))]
    brightness = torch.from_numpy(pixels.images).float().mean(-1)
    if not _see_one_place(parts[0], parts[1], brightness[:middle], brightness[middle:]):
        return None
    fits = [overlap_similarity(part, record.posed_points(frames, of_frames)) for part, frames in zip(parts, visits)]
    if max(fit.residual for fit in fits) > FITS:
        return None
    # Where the second visit should stand, from where it stands now.
    correction = fits[0].target_from_source @ torch.linalg.inv(fits[1].target_from_source)
    first, second = int(record.windows[i]), int(record.windows[j])
    return Loop(first, second, torch.linalg.inv(placed[first]) @ correction @ placed[second])


def _see_one_place(source: PosedPoints, target: PosedPoints, look: Tensor, target_look: Tensor) -> bool:
    """Whether some frame of one visit is found in one of the other: points at their depth, with their brightness."""
    height, width = look.shape[-2:]
    intrinsics = centred_intrinsics(focal_from_points(target.local_points, target.weight), height, width)
    return any(
        _found_again(source, target, look, target_look, intrinsics, a, b)
        for a in range(len(look))
        for b in range(len(target_look))
    )


def _found_again(
    source: PosedPoints, target: PosedPoints, look: Tensor, target_look: Tensor, intrinsics: Tensor, a: int, b: int
) -> bool:
    """Whether frame a of one visit is found in frame b of the other."""
    target_from_source = invert(target.world_from_camera[b]) @ source.world_from_camera[a]
    points = transform_maps(target_from_source, source.local_points[a])
    height, width = look.shape[-2:]
    place = project(points, intrinsics[b])
    known = source.weight[a] > 0
    inside = known & (points[..., 2] > 0) & inside_image(place, height, width)
    x, y = place[inside].long().unbind(-1)
    depth = target.local_points[b, y, x, 2]
    near = (points[inside][:, 2] - depth).abs() < SAME_DEPTH * depth
    if near.sum() < max(2.0, SEEN_AGAIN * known.sum()):
        return False
    looks = torch.stack([look[a][inside][near], target_look[b, y, x][near]])
    looks = looks - looks.mean(1, keepdim=True)
    return bool((looks[0] * looks[1]).sum() >= SAME_LOOK * looks.norm(dim=1).prod())
