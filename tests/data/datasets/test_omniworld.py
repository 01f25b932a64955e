"""OmniWorld-Game is read as its script unpacks it, split by split; frames that cannot be used are counted."""

import json

import numpy as np
import pytest
from omniworld_on_disk import encoded_depth, write_omniworld
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.omniworld import OMNIWORLD
from flow3r.errors import InputError

PINHOLE = np.array([[60.0, 0, 33.5], [0, 60, 23], [0, 0, 1]])


def test_a_split_comes_back(tmp_path):
    truth = rendered_scene(intrinsics=PINHOLE)
    write_omniworld(tmp_path, truth)
    (split,) = OMNIWORLD.sequences(tmp_path)
    assert split.name == "b04f88d1f85a/split_0"
    frames = list(split.frames(range(3)))
    check_frames(frames, truth)
    np.testing.assert_allclose(split.timestamps(), [0, 1 / 24, 2 / 24])
    assert all((frame.depth[:2, :2] == 0).all() for frame in frames)  # sky, and too close


def test_depth_is_no_linear_code(tmp_path):
    """The middle of the code is 0.25 units, and half of all codes lie nearer."""
    assert encoded_depth(np.array([0.25 / 1.001, 2.5, 25.0])).tolist() == pytest.approx([32784, 59583, 64890], abs=120)


def test_splits_take_their_own_frames(tmp_path):
    truth = rendered_scene(4, intrinsics=PINHOLE)
    write_omniworld(tmp_path, truth, splits=((0,), (2, 3)))
    first, second = OMNIWORLD.sequences(tmp_path)
    assert (len(first), len(second)) == (1, 2)
    relative = [frame.world_from_camera for frame in second.frames([0, 1])]
    np.testing.assert_allclose(relative, truth.world_from_camera[2:], atol=1e-6)
    np.testing.assert_allclose(second.timestamps(), [2 / 24, 3 / 24])


def test_frames_that_cannot_be_used_are_counted(tmp_path):
    folder = write_omniworld(tmp_path, rendered_scene(5, intrinsics=PINHOLE), splits=((0, 1, 2, 3, 4),))
    (folder / "depth" / "000001.png").unlink()  # not every frame has depth
    file = folder / "camera" / "split_0.json"
    camera = json.loads(file.read_text())
    camera["trans"][2][0], camera["quats"][3], camera["invalid_frame"] = float("nan"), [0, 0, 0, 0], [4]
    file.write_text(json.dumps(camera))
    (split,) = OMNIWORLD.sequences(tmp_path)
    assert split.timestamps().tolist() == [0]
    assert split.left_out == {"image or depth file missing": 1, "camera not finite": 2, "marked invalid": 1}


def test_tests_are_published_splits_and_whole_scenes(tmp_path):
    """The rows are of the released table, but for their sizes."""
    truth = rendered_scene(2, intrinsics=PINHOLE)
    for uid in ("b04f88d1f85a", "68a6f0c8e359", "057f4daa3089"):
        write_omniworld(tmp_path, truth, uid, splits=((0,), (1,)))
    every = [sequence.name for sequence in OMNIWORLD.sequences(tmp_path)]
    by_hash = set(OMNIWORLD.held_out(tmp_path))
    (scene,) = {name.split("/")[0] for name in by_hash}
    assert by_hash == {f"{scene}/split_0", f"{scene}/split_1"}  # a scene is on one side alone
    other = next(name.split("/")[0] for name in every if not name.startswith(scene))
    (tmp_path / "metadata").mkdir()
    table = tmp_path / "metadata" / "omniworld_game_metadata.csv"
    table.write_text(
        f'UID,Split Num,Test Split Index,FPS\n{other},2,"1",24.0\n6cf238440181,45,"10,13",24.0\nx,7,,24.0\n'
    )
    assert set(OMNIWORLD.held_out(tmp_path)) == by_hash | {f"{other}/split_1"}
    table.write_text("UID,Video Path,Annotation Path,Img Num,Split Num,FPS,Resolution\nx,v/x,a/x,605,4,24,1280×720\n")
    with pytest.raises(InputError, match=r"Test Split Index.*first release.*fetch the present one"):
        OMNIWORLD.held_out(tmp_path)


def test_bad_files_and_roots_are_named(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match=r"OmniWorld-Game.*unpacked.*it holds videos"):
        OMNIWORLD.sequences(tmp_path)
    folder = write_omniworld(tmp_path, rendered_scene(2, intrinsics=PINHOLE), splits=((0, 1),))
    (folder / "split_info.json").write_text('{"split": [[0]]}')
    with pytest.raises(InputError, match=r"split_0\.json.*split_info\.json"):
        len(OMNIWORLD.sequences(tmp_path)[0])
    (folder / "split_info.json").unlink()
    with pytest.raises(InputError, match=r"split_info\.json"):
        len(OMNIWORLD.sequences(tmp_path)[0])
