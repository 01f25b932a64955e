"""Virtual KITTI 2 is read as its archives unpack, with its flow; frames that cannot be used are counted."""

import cv2
import numpy as np
import pytest
from rendered import check_frames, rendered_scene
from vkitti2_on_disk import encoded_flow, exact_flow, write_vkitti2

from flow3r.data.datasets.vkitti2 import VKITTI2
from flow3r.errors import InputError

# A row of the dataset's own intrinsic.txt, as several public loaders quote it.
REAL_PINHOLE = "0 0 725.0087 725.0087 620.5 187"


def test_a_drive_comes_back(tmp_path):
    truth = rendered_scene()
    write_vkitti2(tmp_path, truth)
    (drive,) = VKITTI2.sequences(tmp_path)
    assert drive.name == "Scene01/clone/Camera_0"
    frames = list(drive.frames(range(3)))
    check_frames(frames, truth, depth_step=6e-3)
    assert all((frame.depth[:2, :2] == 0).all() for frame in frames)  # sky


def test_archives_may_lie_in_folders_of_their_own(tmp_path):
    truth = rendered_scene(2)
    folder = write_vkitti2(tmp_path / "all", truth)
    for kind in ("rgb", "depth", "forwardFlow", "backwardFlow"):
        own = tmp_path / f"vkitti_2.0.3_{kind}" / "Scene01" / "clone" / "frames"
        own.mkdir(parents=True)
        (folder / "frames" / kind).rename(own / kind)
    text = tmp_path / "vkitti_2.0.3_textgt" / "Scene01" / "clone"
    text.mkdir(parents=True)
    for name in ("intrinsic.txt", "extrinsic.txt"):
        (folder / name).rename(text / name)
    (drive,) = VKITTI2.sequences(tmp_path)
    check_frames(list(drive.frames(range(2))), truth, depth_step=6e-3)
    assert drive.flow(0, 1) is not None


@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 0), (2, 1)])
def test_flow_is_that_of_depth_and_poses(tmp_path, i, j):
    """Forward and backward; a step of the code is 2 (W - 1) / 65535 pixels. In a convex room all that stays is seen."""
    truth = rendered_scene()
    write_vkitti2(tmp_path, truth, first=17)
    displacement, covisible = VKITTI2.sequences(tmp_path)[0].flow(i, j)
    exact = exact_flow(truth, i, j)
    seen = covisible > 0
    assert np.abs(displacement - exact)[seen].max() < 63 / 65535 + 1e-5
    height, width = covisible.shape
    end = exact + np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    stays = ((end > 0) & (end < [width, height])).all(axis=-1)
    assert not (seen & ~stays).any()
    assert (seen & stays).sum() > 0.95 * stays.sum()
    assert not seen[:2, :2].any() and np.isfinite(displacement).all()  # sky


def test_what_is_hidden_is_not_covisible(tmp_path):
    """Where the flow back from frame j does not return, as behind another object."""
    truth = rendered_scene(2)
    folder = write_vkitti2(tmp_path, truth)
    moved = exact_flow(truth, 1, 0)
    moved[10:30, 20:40] += 5
    file = folder / "frames" / "backwardFlow" / "Camera_0" / "backwardFlow_00001.png"
    cv2.imwrite(str(file), encoded_flow(moved, np.ones(moved.shape[:2], bool)))
    _, covisible = VKITTI2.sequences(tmp_path)[0].flow(0, 1)
    assert not covisible[16:26, 26:34].any() and covisible[34:42, 10:50].all()


def test_pairs_without_flow_have_none(tmp_path):
    folder = write_vkitti2(tmp_path, rendered_scene())
    (drive,) = VKITTI2.sequences(tmp_path)
    assert drive.flow(0, 2) is None and drive.flow(0, 0) is None
    (folder / "frames" / "backwardFlow" / "Camera_0" / "backwardFlow_00001.png").unlink()
    assert drive.flow(0, 1) is None


def test_a_row_of_the_dataset_has_its_centre_in_the_middle(tmp_path):
    """1242 x 375: 620.5, 187 counted from the centre of the first pixel."""
    folder = write_vkitti2(tmp_path, rendered_scene(1))
    header = (folder / "intrinsic.txt").read_text().splitlines()[0]
    (folder / "intrinsic.txt").write_text(f"{header}\n{REAL_PINHOLE}\n")
    (frame,) = VKITTI2.sequences(tmp_path)[0].frames([0])
    np.testing.assert_allclose(frame.intrinsics, [[725.0087, 0, 1242 / 2], [0, 725.0087, 375 / 2], [0, 0, 1]])


def test_frames_that_cannot_be_used_are_counted(tmp_path):
    folder = write_vkitti2(tmp_path, rendered_scene(4))
    (folder / "frames" / "depth" / "Camera_0" / "depth_00003.png").unlink()
    rows = (folder / "extrinsic.txt").read_text().splitlines()
    rows[3] = rows[3].replace(rows[3].split()[5], "nan", 1)
    (folder / "extrinsic.txt").write_text("\n".join(rows[:5]) + "\n" + "\n".join(rows[7:]) + "\n")
    (drive,) = VKITTI2.sequences(tmp_path)
    assert drive.timestamps().tolist() == [0]
    assert drive.left_out == {"camera not finite": 1, "no camera": 1, "depth file missing": 1}


def test_bad_files_and_roots_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no such folder.*Virtual KITTI 2"):
        VKITTI2.sequences(tmp_path / "nowhere")
    folder = write_vkitti2(tmp_path, rendered_scene(2))
    with pytest.raises(InputError, match=r"it holds .*frames"):
        VKITTI2.sequences(folder)
    flow = folder / "frames" / "forwardFlow" / "Camera_0" / "flow_00000.png"
    flow.write_bytes(b"")
    with pytest.raises(InputError, match=r"flow_00000\.png.*16 bits"):
        VKITTI2.sequences(tmp_path)[0].flow(0, 1)
    (folder / "extrinsic.txt").unlink()
    with pytest.raises(InputError, match=r"extrinsic\.txt"):
        len(VKITTI2.sequences(tmp_path)[0])
