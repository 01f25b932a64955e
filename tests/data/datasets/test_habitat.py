"""Habitat: half floats in OpenEXR, integer pixel centres, batches of views, broken poses."""

import json
from pathlib import Path

import numpy as np
import pytest
from habitat_on_disk import write_batch, write_exr
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.habitat import HABITAT, read_exr
from flow3r.errors import InputError


def test_a_written_batch_comes_back(tmp_path: Path):
    scene = rendered_scene(count=5)
    write_batch(tmp_path / "hm3d" / "00000-a_b", "00000003", scene)
    (sequence,) = HABITAT.sequences(tmp_path)
    assert sequence.name == "hm3d/00000-a_b/00000003" and not sequence.left_out
    check_frames(list(sequence.frames(range(5))), scene, depth_step=0, depth_relative=6e-4)  # float16 has 11 bits


def test_views_of_a_folder_are_split_into_batches_and_lists_choose_among_them(tmp_path: Path):
    scene = rendered_scene(count=2)
    for batch in ("00000000", "00000001", "00000010"):
        write_batch(tmp_path / "gibson" / "Ackermanville", batch, scene)
    names = [f"gibson/Ackermanville/{batch}" for batch in ("00000000", "00000001", "00000010")]
    found = HABITAT.sequences(tmp_path)
    assert [sequence.name for sequence in found] == names
    assert [len(sequence) for sequence in found] == [2, 2, 2]
    (tmp_path / "Habitat_2_scenes_train.txt").write_text(f"{names[1]}\n{names[2]}\n")
    assert [sequence.name for sequence in HABITAT.sequences(tmp_path)] == names[1:]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("size", [(48, 64), (17, 5), (33, 31)])  # whole blocks of lines and parts of one
def test_openexr_of_half_and_single_floats_is_exact(tmp_path: Path, dtype: type, size: tuple[int, int]):
    values = np.random.default_rng(0).uniform(0.1, 30, size).astype(dtype)
    values[0, :3] = [0, np.inf, 60000]
    values[:, 3] = 2.5
    write_exr(tmp_path / "a.exr", values)
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), values.astype(np.float32))


def test_views_that_cannot_be_used_are_counted_by_reason(tmp_path: Path):
    write_batch(tmp_path, "00000000", rendered_scene(count=4))
    file = tmp_path / "00000000_2_camera_params.json"
    camera = json.loads(file.read_text())
    camera["R_cam2world"][0][0] = float("nan")
    file.write_text(json.dumps(camera))
    (tmp_path / "00000000_3_depth.exr").unlink()
    (sequence,) = HABITAT.sequences(tmp_path)
    assert [path.name for path in sequence.files] == ["00000000_1.jpeg", "00000000_4.jpeg"]
    assert sequence.left_out == {"non-finite pose": 1, "missing depth file": 1}


def test_damaged_depth_is_named(tmp_path: Path):
    write_batch(tmp_path, "00000000", rendered_scene(count=1))
    (tmp_path / "00000000_1_depth.exr").write_bytes(b"v/1\1 no more")
    (sequence,) = HABITAT.sequences(tmp_path)
    with pytest.raises(InputError, match=r"00000000_1_depth\.exr"):
        list(sequence.frames([0]))


def test_a_wrong_root_says_what_was_looked_for_and_found(tmp_path: Path):
    (tmp_path / "versioned_data").mkdir()
    with pytest.raises(InputError, match=r"_camera_params\.json.*versioned_data"):
        HABITAT.sequences(tmp_path)
