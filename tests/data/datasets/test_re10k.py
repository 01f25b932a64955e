"""RealEstate10K: intrinsics in sizes of the image, frames by their timestamp, cameras from the world."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from re10k_on_disk import write_re10k
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.re10k import RE10K
from flow3r.errors import InputError

# The first camera of test clip 0bf152ef84195293 of the release, as the repository CameraCtrl carries it.
REAL = (
    "158692025 0.474812461 0.844111024 0.500000000 0.500000000 0.000000000 0.000000000 0.780003667 0.059620168 "
    "-0.622928321 0.726968666 -0.062449891 0.997897983 0.017311305 0.217967188 0.622651041 0.025398925 0.782087326 "
    "-1.002211444"
)


def test_a_clip_comes_back(tmp_path: Path):
    truth = rendered_scene(3)
    write_re10k(tmp_path, "0bf152ef84195293", truth)
    (sequence,) = RE10K.sequences(tmp_path)
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth)
    assert frames[0].depth is None and sequence.name == "test/0bf152ef84195293"
    np.testing.assert_allclose(sequence.timestamps(), [9.933, 10.0331, 10.1332])


def test_frames_that_were_not_extracted_do_not_shift_the_others(tmp_path: Path):
    truth = rendered_scene(3)
    write_re10k(tmp_path, "a", truth)
    (tmp_path / "dataset/test/a/10033100.png").unlink()
    (sequence,) = RE10K.sequences(tmp_path)
    assert len(sequence) == 2 and sequence.left_out == {"no frame file": 1}
    (frame,) = sequence.frames([1])
    np.testing.assert_allclose(frame.world_from_camera, truth.world_from_camera[2], atol=1e-6)


def test_a_camera_of_the_release_has_square_pixels_at_the_size_of_its_video(tmp_path: Path):
    cameras = write_re10k(tmp_path, "a", rendered_scene(1))
    cameras.write_text(f"https://www.youtube.com/watch?v=QShWPZxTDoE\n{REAL}\n")
    cv2.imwrite(str(tmp_path / "dataset/test/a/158692025.png"), np.zeros((360, 640, 3), dtype=np.uint8))
    (frame,) = RE10K.sequences(tmp_path)[0].frames([0])
    assert np.isclose(frame.intrinsics[0, 0], frame.intrinsics[1, 1], rtol=1e-6)
    assert frame.intrinsics[:2, 2].tolist() == [320, 180]
    np.testing.assert_allclose(np.linalg.det(frame.world_from_camera[:3, :3]), 1, atol=1e-6)


def test_what_cannot_be_read_is_named(tmp_path: Path):
    cameras = write_re10k(tmp_path, "a", rendered_scene(1))
    cameras.write_text("https://\n9933000 1 2 3\n")
    with pytest.raises(InputError, match=r"a.txt: 4 numbers at 9933000; expected 19"):
        len(RE10K.sequences(tmp_path)[0])
    cameras.unlink()
    with pytest.raises(InputError, match=r"a.txt: not a camera file"):
        len(RE10K.sequences(tmp_path)[0])
    with pytest.raises(InputError, match=r"no dataset/\*/\*.*it holds test"):
        RE10K.sequences(tmp_path / "RealEstate10K")
