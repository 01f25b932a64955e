"""MegaDepth: HDF5 depth, COLMAP models in text or binary, ordinal masks, a package that may be absent."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("pycolmap")

from megadepth_on_disk import DEPTHS, SIZE, write_depth, write_scene
from rendered import Rendered, check_frames, rendered_scene

from flow3r.data.datasets.megadepth import MEGADEPTH
from flow3r.errors import InputError


@pytest.mark.parametrize("model", ["sparse-txt", "sparse"])
@pytest.mark.parametrize("place", ["phoenix", "depth_undistorted"])
def test_a_written_scene_comes_back_in_the_order_of_names(tmp_path: Path, model: str, place: str):
    scene = rendered_scene(size=SIZE)
    folder = write_scene(tmp_path, scene)
    shutil.rmtree(folder / ({"sparse", "sparse-txt"} - {model}).pop())
    if place == "depth_undistorted":
        (tmp_path / place).mkdir()
        (tmp_path / DEPTHS.format("0015")).rename(tmp_path / place / "0015")
    (sequence,) = MEGADEPTH.sequences(tmp_path)
    assert sequence.name == "0015" and not sequence.left_out
    assert [file.name for file in sequence.files] == [f"{number}_a1b2_o.jpg" for number in (698, 699, 700)]
    truth = Rendered(scene.images[::-1], scene.depth[::-1], scene.intrinsics, scene.world_from_camera[::-1])
    check_frames(list(sequence.frames(range(3))), truth, depth_step=0, depth_relative=1e-6)


def test_ordinal_depth_and_missing_files_are_counted(tmp_path: Path):
    folder = write_scene(tmp_path, rendered_scene(count=4, size=SIZE))
    depths = tmp_path / DEPTHS.format("0015")
    write_depth(depths / "700_a1b2_o.h5", np.full(SIZE, -1, np.int8))
    (depths / "699_a1b2_o.h5").unlink()
    (folder / "images" / "698_a1b2_o.jpg").unlink()
    (sequence,) = MEGADEPTH.sequences(tmp_path)
    assert [file.name for file in sequence.files] == ["697_a1b2_o.jpg"]
    assert sequence.left_out == {"ordinal depth": 1, "missing depth file": 1, "missing image": 1}


def test_a_large_ordinal_mask_is_not_taken_for_depth(tmp_path: Path):
    scene = rendered_scene(count=1, size=SIZE)
    write_scene(tmp_path, scene)
    mask = np.ones(SIZE, np.float32)
    mask[:50] = -1
    write_depth(tmp_path / DEPTHS.format("0015") / "700_a1b2_o.h5", mask)
    (frame,) = MEGADEPTH.sequences(tmp_path)[0].frames([0])
    assert (frame.depth == 0).all()


def test_the_distorted_model_of_the_release_is_refused(tmp_path: Path):
    cameras = write_scene(tmp_path, rendered_scene(count=1, size=SIZE)) / "sparse-txt" / "cameras.txt"
    cameras.write_text("1 SIMPLE_RADIAL 170 160 60 86.75 78.75 -0.03\n")
    with pytest.raises(InputError, match=r"distorted images \(SIMPLE_RADIAL\); expected PINHOLE"):
        len(MEGADEPTH.sequences(tmp_path)[0])


def test_a_scene_without_depth_says_where_it_was_looked_for(tmp_path: Path):
    write_scene(tmp_path, rendered_scene(count=1, size=SIZE))
    shutil.rmtree(tmp_path / "phoenix")
    with pytest.raises(InputError, match=r"0015.*dense0.depths and .*depth_undistorted"):
        len(MEGADEPTH.sequences(tmp_path)[0])


def test_damaged_depth_and_a_missing_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_scene(tmp_path, rendered_scene(count=1, size=SIZE))
    file = tmp_path / DEPTHS.format("0015") / "700_a1b2_o.h5"
    file.write_bytes(file.read_bytes()[: 101 * 1024])
    (sequence,) = MEGADEPTH.sequences(tmp_path)
    with pytest.raises(InputError, match=r"700_a1b2_o\.h5"):
        list(sequence.frames([0]))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"flow3r\[datasets\]"):
        list(sequence.frames([0]))


def test_a_wrong_root_says_what_was_looked_for_and_found(tmp_path: Path):
    (tmp_path / "MegaDepth_v1_SfM").mkdir()
    with pytest.raises(InputError, match=r"Undistorted_SfM.*it holds MegaDepth_v1_SfM"):
        MEGADEPTH.sequences(tmp_path)
