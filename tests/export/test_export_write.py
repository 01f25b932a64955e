"""The whole export: the same bytes every time, nothing half written, nothing overwritten that is not ours."""

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from synthetic_room import original_images, room_reconstruction

from flow3r.errors import InputError
from flow3r.export import FORMATS, load_reconstruction, write_reconstruction

FILES = {
    "reconstruction.npz", "scene.ply", "scene.glb", "sparse/0/cameras.txt", "sparse/0/images.txt",
    "sparse/0/points3D.txt", "images/000000.jpg", "images/000001.jpg", "images/000002.jpg", "trajectory.tum",
    "transforms.json", "viewer.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def room():
    return room_reconstruction()


@pytest.fixture(scope="module")
def images(room):
    return original_images(room)


def contents(folder):
    """Relative name -> bytes, of every file, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_against_manifest(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    found = contents(folder)
    assert set(found) == {*manifest["files"], "manifest.json"}
    for name, record in manifest["files"].items():
        assert hashlib.sha256(found[name]).hexdigest() == record["sha256"] and len(found[name]) == record["bytes"]
    return manifest


def test_all_formats_are_written_and_listed(room, images, tmp_path):
    paths = write_reconstruction(room, tmp_path / "new" / "out", source=images, max_points=5000)
    assert set(paths) == {*FORMATS, "manifest"} and all(path.exists() for path in paths.values())
    manifest = check_against_manifest(tmp_path / "new" / "out")
    assert set(manifest["files"]) == FILES
    assert manifest["scale"]["kind"] == "relative"
    assert manifest["pinhole"]["residual_rms_px"] == pytest.approx(0.25)
    assert manifest["model"] == {"name": "exact", "weights_sha256": "0" * 64}
    assert manifest["points"]["written"]["scene.ply"] == 5000 < manifest["points"]["above_thresholds"]
    assert {"predict", "export"} <= set(manifest["timings"])
    assert [frame["name"] for frame in manifest["frames"]] == list(room.names)
    assert {"flow3r", "torch"} <= set(manifest["software"])


def test_two_exports_have_the_same_bytes_but_for_timings(room, images, tmp_path):
    for name in ("one", "two"):
        write_reconstruction(room, tmp_path / name, source=images)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    manifests = [json.loads(found.pop("manifest.json")) for found in (one, two)]
    assert one == two
    for manifest in manifests:
        del manifest["timings"]
    assert manifests[0] == manifests[1]


def test_exporting_edits_nothing(room, images, tmp_path):
    before, images_before = copy.deepcopy(room), copy.deepcopy(images)
    write_reconstruction(room, tmp_path, source=images, confidence_percentile=20)
    for name, value in vars(before).items():
        np.testing.assert_equal(getattr(room, name), value)
    np.testing.assert_equal(images, images_before)


def test_a_second_export_replaces_the_first_and_keeps_other_formats(room, images, tmp_path):
    write_reconstruction(room, tmp_path, "npz,ply")
    first = contents(tmp_path)
    write_reconstruction(room, tmp_path, ["tum", "ply"], min_confidence=0.5)
    second = contents(tmp_path)
    assert second["reconstruction.npz"] == first["reconstruction.npz"] and second["scene.ply"] != first["scene.ply"]
    assert set(check_against_manifest(tmp_path)["files"]) == {"reconstruction.npz", "scene.ply", "trajectory.tum"}
    write_reconstruction(room, tmp_path, source=images)
    write_reconstruction(room_reconstruction(count=2), tmp_path, source=images[:2])
    assert set(check_against_manifest(tmp_path)["files"]) == FILES - {"images/000002.jpg"}


def test_files_of_others_are_not_touched(room, images, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000.jpg").write_bytes(b"a photo of somebody else's")
    (tmp_path / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="holds images that flow3r did not write"):
        write_reconstruction(room, tmp_path, source=images)
    assert contents(tmp_path) == before
    write_reconstruction(room, tmp_path, ("npz", "html"))
    assert before.items() <= contents(tmp_path).items()
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(InputError, match=r"manifest\.json: was not written by flow3r"):
        write_reconstruction(room, tmp_path, "tum")


def test_bad_requests_are_refused_before_anything_is_written(room, images, tmp_path):
    file = tmp_path / "file"
    file.write_text("here already")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        write_reconstruction(room, file, "npz")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="unknown format usd, fbx; expected some of npz, ply, glb, colmap, tum"):
        write_reconstruction(room, out, ["npz", "usd", "fbx"])
    with pytest.raises(InputError, match="unknown format"):
        write_reconstruction(room, out, ())
    with pytest.raises(InputError, match="colmap, nerfstudio need the original images"):
        write_reconstruction(room, out)
    with pytest.raises(InputError, match="max_points is 0"):
        write_reconstruction(room, out, "ply", max_points=0)
    assert not out.exists()


def test_a_source_that_changed_is_refused_and_nothing_is_left(room, images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="the source has 2 frames"):
        write_reconstruction(room, out, source=images[:2])
    with pytest.raises(InputError, match="is 50x50 now, was 101x187"):
        write_reconstruction(room, out, source=np.zeros((3, 50, 50, 3), dtype=np.uint8))
    assert contents(out) == {}


def test_the_frames_that_were_used_are_found_in_the_whole_source(room, images, tmp_path):
    whole = [np.zeros_like(images[0])] * 12
    for index, image in zip(room.frame_indices, images):
        whole[index] = image
    write_reconstruction(room, tmp_path / "used", "colmap", source=images)
    write_reconstruction(room, tmp_path / "whole", "colmap", source=whole)
    for name in ("images/000000.jpg", "images/000002.jpg"):
        assert (tmp_path / "used" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def export_and_die(room, images, out, renames):
    """In a child process: export, and be killed just before rename number `renames`. Returns whether it was."""
    child = os.fork()
    if child == 0:
        rename, done = os.replace, iter(range(10**6))

        def replace(*arguments):
            if next(done) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments)

        os.replace = replace
        try:
            write_reconstruction(room, out, source=images, max_points=2000)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_at_any_rename_it_leaves_whole_files_and_can_be_run_again(room, images, tmp_path):
    write_reconstruction(room, tmp_path / "whole", source=images, max_points=2000)
    whole = contents(tmp_path / "whole")
    del whole["manifest.json"]
    renames = 0
    while export_and_die(room, images, tmp_path / "out", renames):
        visible = {name: data for name, data in contents(tmp_path / "out").items() if not name.startswith(".")}
        assert visible.items() <= whole.items()
        renames += 1
    assert renames > len(FORMATS)
    check_against_manifest(tmp_path / "out")
    assert whole.items() <= contents(tmp_path / "out").items()


ENDLESS = """
import sys
import traceback
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from synthetic_room import room_reconstruction
from flow3r.export import write_reconstruction
room = room_reconstruction(count=6, grid=(84, 112))
print("ready", flush=True)
while True:
    write_reconstruction(room, sys.argv[1], "npz,ply,glb,html,tum")
"""


def test_killed_while_it_writes_it_leaves_whole_files(tmp_path, repository):
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", ENDLESS, str(out), str(repository), str(Path(__file__).parent.parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        while not (out / "manifest.json").exists():
            assert process.poll() is None
        process.kill()
    found = load_reconstruction(out)
    assert len(found.names) == 6
    manifest = json.loads((out / "manifest.json").read_text())
    for name, record in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == record["sha256"]
