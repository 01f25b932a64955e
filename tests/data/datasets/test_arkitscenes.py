"""ARKitScenes: world-to-camera trajectories at 10 Hz, millimetres, intrinsics per image, devices held in four ways."""

from pathlib import Path

import numpy as np
import pytest
from arkitscenes_on_disk import VIDEO, times, write_frame, write_video
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.arkitscenes import ARKITSCENES
from flow3r.errors import InputError


@pytest.mark.parametrize("sky", ["UP", "LEFT", "DOWN", "RIGHT"])
def test_a_video_comes_back_upright_however_the_device_was_held(tmp_path: Path, sky: str):
    scene = rendered_scene(count=4)
    write_video(tmp_path, scene, sky)
    (sequence,) = ARKITSCENES.sequences(tmp_path)
    assert sequence.name == VIDEO and not sequence.left_out
    np.testing.assert_allclose(sequence.timestamps(), times(4), atol=6e-4)  # names have milliseconds
    check_frames(list(sequence.frames(range(4))), scene, depth_step=6e-4, depth_relative=0, colours=0.1)


def test_up_is_up_in_the_world_that_is_read(tmp_path: Path):
    write_video(tmp_path, rendered_scene(count=1), "LEFT")
    (frame,) = ARKITSCENES.sequences(tmp_path)[0].frames([0])
    np.testing.assert_allclose(frame.world_from_camera[:3, 1], [0, 0, -1], atol=1e-9)  # the camera's down


def test_images_between_the_poses_are_left_out_and_counted(tmp_path: Path):
    scene = rendered_scene(count=3)
    folder = write_video(tmp_path, scene)
    for shift in (1 / 60, 2 / 60):
        name = f"{VIDEO}_{times(1)[0] + shift:.3f}"
        write_frame(folder, name, scene.images[0], scene.depth[0], scene.intrinsics)
    (sequence,) = ARKITSCENES.sequences(tmp_path)
    assert len(sequence) == 3 and sequence.left_out == {"no pose in time": 2}


@pytest.mark.parametrize("shift", [-0.001, 0.001])
def test_intrinsics_may_be_named_a_millisecond_off(tmp_path: Path, shift: float):
    folder = write_video(tmp_path, rendered_scene(count=2))
    (first, _) = sorted((folder / "lowres_wide_intrinsics").iterdir())
    seconds = float(first.stem.rpartition("_")[2])
    first.rename(first.with_name(f"{VIDEO}_{seconds + shift:.3f}.pincam"))
    (sequence,) = ARKITSCENES.sequences(tmp_path)
    assert len(sequence) == 2 and not sequence.left_out


def test_images_that_cannot_be_used_are_counted_by_reason(tmp_path: Path):
    folder = write_video(tmp_path, rendered_scene(count=4))
    names = [path.stem for path in sorted((folder / "lowres_wide").iterdir())]
    (folder / "lowres_depth" / f"{names[0]}.png").unlink()
    (folder / "lowres_wide_intrinsics" / f"{names[1]}.pincam").unlink()
    lines = (folder / "lowres_wide.traj").read_text().splitlines()
    lines[2] = " ".join([lines[2].split()[0], *["nan"] * 6])
    (folder / "lowres_wide.traj").write_text("\n".join(lines[::-1]))  # their order does not matter
    (sequence,) = ARKITSCENES.sequences(tmp_path)
    assert [path.stem for path in sequence.files] == names[3:]
    assert sequence.left_out == {"missing depth file": 1, "no intrinsics": 1, "non-finite pose": 1}


def test_a_video_without_a_trajectory_is_named(tmp_path: Path):
    (write_video(tmp_path, rendered_scene(count=1)) / "lowres_wide.traj").unlink()
    (sequence,) = ARKITSCENES.sequences(tmp_path)
    with pytest.raises(InputError, match=r"47333462.lowres_wide\.traj: missing"):
        len(sequence)


def test_depth_of_8_bits_is_refused(tmp_path: Path):
    import cv2

    folder = write_video(tmp_path, rendered_scene(count=1))
    (file,) = (folder / "lowres_depth").iterdir()
    cv2.imwrite(str(file), np.ones((48, 64), np.uint8))
    with pytest.raises(InputError, match="uint8; expected 16 bits"):
        list(ARKITSCENES.sequences(tmp_path)[0].frames([0]))


def test_a_wrong_root_says_what_was_looked_for_and_found(tmp_path: Path):
    (tmp_path / "3dod").mkdir()
    with pytest.raises(InputError, match=r"lowres_wide.*3dod"):
        ARKITSCENES.sequences(tmp_path)
