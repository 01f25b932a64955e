"""A judge that knows nothing of us: COLMAP, given the images alone, finds the cameras that a world says it has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.worlds import render_worlds
from flow3r.draw import save_png
from flow3r.geometry.align import umeyama
from flow3r.geometry.se3 import rotation_angle

pycolmap = pytest.importorskip("pycolmap")
STATIC = WorldsConfig(moving_share=0.0, outdoor_share=0.0, fov_degrees=(55.0, 70.0), rotation_degrees=(18.0, 24.0))


def grains(count: int, side: int = 128) -> list[torch.Tensor]:
    """Images of many scales of noise: what a feature detector can hold on to, and no two places alike."""
    images = []
    for _ in range(count):
        octaves = [torch.rand(1, 3, side >> k, side >> k) for k in range(5)]
        image = sum(F.interpolate(octave, (side, side), mode="bicubic") for octave in octaves)[0]
        images.append(((image - image.mean()) / (4 * image.std()) + 0.5).clamp(0, 1))
    return images


def colmap_poses(images: torch.Tensor, folder: Path) -> tuple[list[int], torch.Tensor, float]:
    """Indices of the registered images, their world_from_camera (n 4 4), and the focal length in pixels."""
    for k, image in enumerate(images):
        save_png(folder / "images" / f"{k:03d}.png", image)
    database = folder / "database.db"
    options = pycolmap.FeatureExtractionOptions(num_threads=1, use_gpu=False)
    pycolmap.extract_features(
        database,
        folder / "images",
        camera_mode=pycolmap.CameraMode.SINGLE,
        reader_options=pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE"),
        extraction_options=options,
        device=pycolmap.Device.cpu,
    )
    pycolmap.match_exhaustive(
        database,
        matching_options=pycolmap.FeatureMatchingOptions(num_threads=1, use_gpu=False),
        device=pycolmap.Device.cpu,
    )
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=1, random_seed=0)
    models = pycolmap.incremental_mapping(database, folder / "images", folder / "sparse", mapping)
    assert models, "COLMAP found no model"
    model = max(models.values(), key=lambda found: found.num_reg_images())
    registered = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    poses = np.stack([image.cam_from_world().inverse().matrix() for image in registered])
    bottom = np.broadcast_to([[[0.0, 0, 0, 1]]], (len(poses), 1, 4))
    focal = next(iter(model.cameras.values())).focal_length
    indices = [int(image.name[:3]) for image in registered]
    return indices, torch.from_numpy(np.concatenate([poses, bottom], 1)), focal


@pytest.mark.parametrize("seed", [1, 2])
def test_colmap_recovers_the_cameras_of_a_static_clip(tmp_path: Path, seed: int) -> None:
    views = render_worlds([seed], 8, (336, 448), config=STATIC, textures=grains(8)).views
    indices, found, focal = colmap_poses(views.images[0], tmp_path)
    assert len(indices) == 8
    truth = views.world_from_camera[0, indices].double()
    i, j = torch.triu_indices(8, 8, 1)
    relative = truth[i, :3, :3].mT @ truth[j, :3, :3]
    relative_found = found[i, :3, :3].mT @ found[j, :3, :3]
    assert rotation_angle(relative.mT @ relative_found).rad2deg().max() < 1
    scale, rotation, shift = umeyama(found[None, :, :3, 3], truth[None, :, :3, 3])
    centres = scale[0] * found[:, :3, 3] @ rotation[0].mT + shift[0]
    span = (truth[:, :3, 3] - truth[:, :3, 3].mean(0)).norm(dim=-1).max()
    assert (centres - truth[:, :3, 3]).norm(dim=-1).max() < 0.03 * span
    assert abs(focal / float(views.intrinsics[0, 0, 0, 0]) - 1) < 0.02
