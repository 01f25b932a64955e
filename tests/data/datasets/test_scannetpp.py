"""ScanNet++: a fisheye and an OpenCV lens undistorted, rendered depth in millimetres, masks, COLMAP poses, splits."""

from pathlib import Path

import numpy as np
import pytest
from rendered import check_frames, rendered_scene
from scannetpp_on_disk import DEVICES, SIZE, write_device
from synthetic_room import pose

from flow3r.data.datasets.scannetpp import SCANNETPP, sequences
from flow3r.errors import InputError

# Depth is taken from the nearest pixel: up to half a pixel off, which on slanted walls moves points; a short walk keeps
# that below 0.1 pixels in the next frame.
SHORT_WALK = np.stack([pose(0.03 * i, (0.03 * i, -0.01 * i, 0.01 * i), 0.02 * i) for i in range(3)])


@pytest.mark.parametrize("device", DEVICES)
def test_a_written_scene_comes_back_undistorted(tmp_path: Path, device: str):
    write_device(tmp_path, SHORT_WALK, device, prefix="video/" if device == "iphone" else "")
    (sequence,) = SCANNETPP.sequences(tmp_path)
    assert sequence.name == f"0a5c013435/{device}" and not sequence.left_out
    np.testing.assert_array_equal(sequence.timestamps(), [0, 10, 20])
    frames = list(sequence.frames(range(3)))
    truth = rendered_scene(size=SIZE, intrinsics=frames[0].intrinsics, poses=SHORT_WALK)
    check_frames(frames, truth, depth_step=2e-3, depth_relative=0.03, colours=6.0)  # black where no lens saw
    for frame, true_depth, true_image in zip(frames, truth.depth, truth.images):
        known = frame.depth > 0
        assert known.mean() > 0.9 and (np.abs(frame.image.astype(int) - true_image).max(-1) < 60)[known].mean() > 0.985
        assert np.median(np.abs(frame.depth - true_depth)[known] / true_depth[known]) < 6e-3
        if device == "dslr":  # wide enough for slanted walls, which tell a shift of the depth
            assert np.abs(shift(frame.depth, true_depth)).max() < 0.05


def shift(depth: np.ndarray, true_depth: np.ndarray) -> np.ndarray:
    """Pixels (x, y) by which the depth is moved, to first order."""
    y, x = np.gradient(true_depth)
    known = depth > 0
    columns = np.stack([x[known], y[known], np.ones(known.sum())], axis=1)
    return np.linalg.lstsq(columns, (depth - true_depth)[known], rcond=None)[0][:2]


def test_the_pinhole_of_a_fisheye_is_not_the_fisheyes(tmp_path: Path):
    write_device(tmp_path, SHORT_WALK, "dslr")
    (frame,) = SCANNETPP.sequences(tmp_path)[0].frames([0])
    fisheye = DEVICES["dslr"][1]
    assert frame.intrinsics[0, 0] < 0.95 * fisheye[0]  # it sees more of a plane than the fisheye's centre has


def test_depth_is_unknown_where_the_image_is_made_anonymous(tmp_path: Path):
    folder = write_device(tmp_path, SHORT_WALK[:1], "iphone")
    (frame,) = SCANNETPP.sequences(tmp_path)[0].frames([0])
    assert (frame.depth[62:78, 44:66] == 0).all() and frame.depth[90, 60] > 0
    (folder / "rgb_masks" / "frame_000000.png").unlink()
    (frame,) = SCANNETPP.sequences(tmp_path)[0].frames([0])
    assert (frame.depth[62:78, 44:66] > 0).all()


def test_images_that_cannot_be_used_are_counted_by_reason(tmp_path: Path):
    folder = write_device(tmp_path, SHORT_WALK, "iphone")
    (folder / "render_depth" / "frame_000010.png").unlink()
    (folder / "rgb" / "frame_000020.jpg").unlink()
    (sequence,) = SCANNETPP.sequences(tmp_path)
    assert [file.name for file in sequence.files] == ["frame_000000.jpg"]
    assert sequence.left_out == {"missing depth file": 1, "missing image": 1}


def test_a_split_names_scenes(tmp_path: Path):
    for scene in ("aa", "bb"):
        write_device(tmp_path, SHORT_WALK[:1], "iphone", scene)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "nvs_sem_val.txt").write_text("bb\n")
    assert [sequence.name for sequence in sequences(tmp_path)] == ["aa/iphone", "bb/iphone"]
    assert [sequence.name for sequence in sequences(tmp_path, "nvs_sem_val")] == ["bb/iphone"]
    with pytest.raises(InputError, match="there are nvs_sem_val"):
        sequences(tmp_path, "val")


def test_a_root_without_rendered_depth_says_so(tmp_path: Path):
    (tmp_path / "data" / "0a5c013435" / "dslr" / "resized_images").mkdir(parents=True)
    with pytest.raises(InputError, match=r"render_depth.*it holds data"):
        SCANNETPP.sequences(tmp_path)
