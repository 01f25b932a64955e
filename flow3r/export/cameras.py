"""What several exports ask of the cameras of a reconstruction."""

import numpy as np
from jaxtyping import Float

from flow3r.export.known import quantile_of_known
from flow3r.types import Reconstruction


def one_camera(reconstruction: Reconstruction) -> bool:
    """Whether all frames have one size and one pinhole in original pixels."""
    sizes, intrinsics = reconstruction.original_sizes, reconstruction.original_intrinsics
    return bool((sizes == sizes[0]).all() and np.allclose(intrinsics, intrinsics[0], rtol=1e-9, atol=1e-9))


def corner_rays(reconstruction: Reconstruction) -> Float[np.ndarray, "N 4 3"]:
    """Rays with z = 1, in each camera's frame, through the corners of its original image, clockwise from top left."""
    height, width = reconstruction.original_sizes.astype(np.float64).T
    zero, one = np.zeros_like(height), np.ones_like(height)
    x, y = np.stack([zero, width, width, zero], axis=-1), np.stack([zero, zero, height, height], axis=-1)
    corners = np.stack([x, y, np.broadcast_to(one[:, None], x.shape)], axis=-1)
    return corners @ np.linalg.inv(reconstruction.original_intrinsics).swapaxes(-1, -2)


def frusta(
    world_from_camera: Float[np.ndarray, "N 4 4"], corners: Float[np.ndarray, "N 4 3"]
) -> Float[np.ndarray, "N 8 2 3"]:
    """Per camera, in the world, the lines from its centre to four corners (in its frame) and the edges between them."""
    rotation, centre = world_from_camera[:, :3, :3], world_from_camera[:, None, :3, 3]
    corners = corners @ rotation.swapaxes(-1, -2) + centre
    rays = np.stack([np.broadcast_to(centre, corners.shape), corners], axis=2)
    edges = np.stack([corners, np.roll(corners, -1, axis=1)], axis=2)
    return np.concatenate([rays, edges], axis=1)


def typical_depth(reconstruction: Reconstruction) -> float:
    """The median of the known depths, by which drawings of the scene are sized; 1 where there is none."""
    return quantile_of_known(reconstruction, "depth", 0.5) or 1.0
