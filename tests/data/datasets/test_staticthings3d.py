"""StaticThings3D is read as its archives unpack; frames that cannot be used are counted."""

import numpy as np
import pytest
from rendered import check_frames, rendered_scene
from staticthings3d_on_disk import float3_bytes, write_staticthings3d

from flow3r.data.datasets.staticthings3d import STATICTHINGS3D, read_float3
from flow3r.errors import InputError


def test_both_cameras_come_back_as_sequences(tmp_path):
    truth = rendered_scene()
    for camera in ("left", "right"):
        write_staticthings3d(tmp_path, truth, camera=camera)
    left, right = STATICTHINGS3D.sequences(tmp_path)
    assert (left.name, right.name) == ("TRAIN/A/0000/left", "TRAIN/A/0000/right")
    assert left.timestamps().tolist() == [6, 7, 8]
    frames = list(left.frames(range(3)))
    check_frames(frames, truth)
    assert (frames[0].depth[0, :4] == 0).all()  # infinite, negative, not a number


def test_sizes_are_listed_from_the_fastest_dimension(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert float3_bytes(values).startswith(b"float\n3\n4\n3\n2\n")
    (tmp_path / "a.float3").write_bytes(float3_bytes(values))
    np.testing.assert_array_equal(read_float3(tmp_path / "a.float3"), values)


def test_frames_that_cannot_be_used_are_counted(tmp_path):
    write_staticthings3d(tmp_path, rendered_scene(4))
    (tmp_path / "depths/TRAIN/A/0000/left/0006.float3").unlink()
    (tmp_path / "poses/TRAIN/A/0000/left/0008.float3").write_bytes(float3_bytes(np.full((4, 4), np.inf)))
    (left,) = STATICTHINGS3D.sequences(tmp_path)
    assert left.timestamps().tolist() == [7, 9]
    assert left.left_out == {"depth, pose or intrinsics file missing": 1, "camera not finite": 1}


def test_bad_files_and_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*StaticThings3D"):
        STATICTHINGS3D.sequences(tmp_path / "nowhere")
    (tmp_path / "depths").mkdir()
    with pytest.raises(InputError, match=r"no frames_cleanpass.*it holds depths"):
        STATICTHINGS3D.sequences(tmp_path)
    for content in (b"", b"double\n1\n2\n" + bytes(8), float3_bytes(np.ones((2, 2)))[:-1]):
        (tmp_path / "a.float3").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.float3.*'float'"):
            read_float3(tmp_path / "a.float3")
