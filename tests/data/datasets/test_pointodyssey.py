"""PointOdyssey is read as it is exported; its first release is refused; frames that cannot be used are counted."""

import numpy as np
import pytest
from pointodyssey_on_disk import write_pointodyssey
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.pointodyssey import POINTODYSSEY
from flow3r.errors import InputError


def test_a_scene_comes_back(tmp_path):
    truth = rendered_scene()
    write_pointodyssey(tmp_path, truth)
    (scene,) = POINTODYSSEY.sequences(tmp_path)
    assert scene.name == "train/ani"
    frames = list(scene.frames(range(3)))
    check_frames(frames, truth, depth_step=1000 / 65535)  # the writer cuts to a step
    assert all((frame.depth[0, :5] == 0).all() for frame in frames)  # no surface


def test_cameras_of_sixteen_bits_turn_rigidly(tmp_path):
    truth = rendered_scene()
    write_pointodyssey(tmp_path, truth, dtype=np.float16)
    frames = list(POINTODYSSEY.sequences(tmp_path)[0].frames(range(3)))
    for frame, pose in zip(frames, truth.world_from_camera):
        rotation = frame.world_from_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(frame.world_from_camera, pose, atol=2e-3)
        assert np.linalg.det(rotation) > 0


def test_frames_that_cannot_be_used_are_counted(tmp_path):
    folder = write_pointodyssey(tmp_path, rendered_scene(4))
    (folder / "depths" / "depth_00000.png").unlink()
    with np.load(folder / "anno.npz") as arrays:
        content = dict(arrays)
    content["extrinsics"][2, 0, 0] = np.nan
    np.savez(folder / "anno.npz", **{key: value[:3] for key, value in content.items()})
    (scene,) = POINTODYSSEY.sequences(tmp_path)
    assert scene.timestamps().tolist() == [1]
    assert scene.left_out == {"depth file missing": 1, "camera not finite": 1, "no camera": 1}


def test_bad_files_and_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*PointOdyssey"):
        POINTODYSSEY.sequences(tmp_path / "nowhere")
    folder = write_pointodyssey(tmp_path, rendered_scene(1))
    with pytest.raises(InputError, match=r"no \*/\*/rgbs"):
        POINTODYSSEY.sequences(folder)
    (folder / "anno.npz").rename(folder / "annotations.npz")
    with pytest.raises(InputError, match=r"anno\.npz: missing.*first release"):
        len(POINTODYSSEY.sequences(tmp_path)[0])
    (folder / "anno.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"anno\.npz: no .intrinsics."):
        len(POINTODYSSEY.sequences(tmp_path)[0])
