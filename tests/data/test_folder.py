"""A folder with cameras.json: conventions converted at the door, and flow from its depth reproduces its images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_media import texture
from PIL import Image

from flow3r.data.datasets.folder import CameraFolder
from flow3r.data.frame import Sequence
from flow3r.data.video import open_source
from flow3r.errors import InputError
from flow3r.geometry.flow import flow_from_depth, warp

K = [[50.0, 0, 29.5], [0, 51, 19.5], [0, 0, 1]]
IDENTITY = np.eye(4).tolist()


def make_folder(folder: Path, **changes) -> Path:
    """Two frames of 40 x 60 with 16-bit depth in millimetres."""
    for number in range(2):
        Image.fromarray(texture(40, 60, number)).save(folder / f"{number}.png")
        cv2.imwrite(str(folder / f"depth{number}.png"), np.full((40, 60), 1500 * number, np.uint16))
    frames = [{"image": f"{k}.png", "depth": f"depth{k}.png", "K": K, "c2w": IDENTITY, "t": 5.5 + k} for k in range(2)]
    content = {"convention": "OpenCV, pixel centres at integer coordinates", "depth_scale": 0.001, "frames": frames}
    content.update(changes)
    (folder / "cameras.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def test_a_folder_is_a_sequence_of_posed_frames(tmp_path):
    folder = CameraFolder(make_folder(tmp_path))
    assert isinstance(folder, Sequence)
    np.testing.assert_array_equal(folder.timestamps(), [5.5, 6.5])
    first, second = folder.frames([0, 1])
    np.testing.assert_array_equal(second.image, texture(40, 60, 1))
    np.testing.assert_array_equal(second.world_from_camera, np.eye(4))
    np.testing.assert_array_equal(
        second.intrinsics[:2, 2], [30, 20]
    )  # integer centres, half a pixel to the image's edge
    assert first.depth.max() == 0  # unknown
    np.testing.assert_allclose(second.depth, 1.5)
    assert (second.name, second.timestamp) == ("1.png", 6.5)


@pytest.mark.parametrize(
    ("changes", "shift"),
    [
        ({}, 0.5),
        ({"convention": None}, 0.5),
        ({"convention": "pixel centres at half-integer coordinates (COLMAP)"}, 0.0),
        ({"pixel_centre": 0.5}, 0.0),
        ({"pixel_centre": 0, "convention": "half-integer"}, 0.5),
    ],
)
def test_pixel_centres(tmp_path, changes, shift):
    frame = next(CameraFolder(make_folder(tmp_path, **changes)).frames([0]))
    np.testing.assert_allclose(frame.intrinsics[:2, 2], [29.5 + shift, 19.5 + shift])


def test_distorted_images_are_straightened(tmp_path):
    make_folder(tmp_path, distortion_opencv_k1k2p1p2k3=[-0.3, 0.1, 0, 0, 0])
    frame = next(CameraFolder(tmp_path).frames([1]))
    expected = cv2.undistort(texture(40, 60, 1), np.array(K), np.array([-0.3, 0.1, 0, 0, 0.0]))
    assert np.abs(frame.image.astype(int) - expected).max() <= 8  # OpenCV rounds its own map to 1/32 px
    assert ((frame.depth == 0) | np.isclose(frame.depth, 1.5)).all()


def broken(key: str, value) -> list[dict]:
    frames = [{"image": f"{k}.png", "depth": f"depth{k}.png", "K": K, "c2w": IDENTITY} for k in range(2)]
    frames[1] = {**frames[1], key: value} if value is not None else {k: v for k, v in frames[1].items() if k != key}
    return frames


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": None}, "needs a list 'frames'"),
        ({"frames": []}, "needs a list 'frames'"),
        ({"frames": broken("c2w", None)}, "frame 1 has no 'c2w'"),
        ({"frames": broken("image", "gone.png")}, r"gone\.png: missing"),
        ({"frames": broken("K", [[1, 2], [3, 4]])}, "'K' of frame 1 is not a finite 3 x 3 matrix"),
        ({"depth_scale": None}, "no 'depth_scale'"),
        ({"pixel_centre": 0.25}, "'pixel_centre' is 0 or 0.5"),
    ],
)
def test_what_is_missing_is_named(tmp_path, changes, said):
    make_folder(tmp_path, **changes)
    with pytest.raises(InputError, match=said):
        list(CameraFolder(tmp_path).frames([0, 1]))


def test_a_folder_without_cameras_or_with_broken_json(tmp_path):
    with pytest.raises(InputError, match=r"cameras\.json: missing"):
        CameraFolder(tmp_path)
    (tmp_path / "cameras.json").write_text("{")
    with pytest.raises(InputError, match="not a JSON file"):
        CameraFolder(tmp_path)


def test_depth_of_another_size_is_refused(tmp_path):
    make_folder(tmp_path)
    cv2.imwrite(str(tmp_path / "depth1.png"), np.ones((20, 30), np.uint16))
    with pytest.raises(InputError, match=r"depth1\.png: depth of frame 1 is \(20, 30\)"):
        list(CameraFolder(tmp_path).frames([0, 1]))


@pytest.mark.parametrize("name", ["hololens_office", "pi3_room_synthetic", "tum_fr1_rpy", "rgbd_mini5"])
def test_flow_from_real_depth_and_poses_reproduces_the_image(shared, name):
    folder = CameraFolder(shared / "data/sequences_with_gt" / name)
    assert folder.has_depth
    a, b = folder.frames([0, 1])
    stacked = [
        torch.from_numpy(np.stack(both))[None].double()
        for both in zip(*((frame.depth, frame.intrinsics, frame.world_from_camera, frame.image) for frame in (a, b)))
    ]
    flow, covisible = flow_from_depth(*stacked[:3])
    source, target = stacked[3].movedim(-1, 2).unbind(1)
    before, after = ((source - image).abs().mean(1)[covisible].mean() for image in (target, warp(target, flow)))
    assert covisible.float().mean() > 0.1
    assert after < 0.65 * before


def test_poses_without_depth(shared):
    folder = CameraFolder(shared / "data/sequences_with_gt/lund_door")
    assert not folder.has_depth
    frame = next(folder.frames([0]))
    assert frame.depth is None
    np.testing.assert_array_equal(frame.intrinsics[:2, 2], [648, 968])  # its convention says half-integer centres


def test_a_folder_of_videos_is_refused_with_what_it_has(shared):
    with pytest.raises(InputError, match=r"needs a list 'frames'.*it has cameras, convention"):
        CameraFolder(shared / "data/sequences_with_gt/pose2sim_4cam_person_dynamic")


def test_images_of_a_camera_folder_open_as_any_folder(tmp_path):
    assert len(open_source(make_folder(tmp_path))) == 4  # depth images look like images: only cameras.json tells
