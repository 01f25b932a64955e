"""A reconstruction of any length is exported in the memory of a short one, and to the same files from disk."""

import json
import tracemalloc

import numpy as np
import pytest
from frames_on_disk import DENSE, GreyVideo, WatchedStack, again_and_again, on_disk
from synthetic_room import original_images, room_reconstruction

from flow3r.export import load_reconstruction, write_reconstruction


def contents(folder):
    """Relative name -> bytes of every file, but for the timings of the manifest."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(found["manifest.json"])
    del manifest["timings"]
    return {**found, "manifest.json": manifest}


@pytest.mark.parametrize("choice", [{}, {"max_points": 1500, "confidence_percentile": 25.0, "min_confidence": 0.4}])
def test_frames_in_memory_and_on_disk_give_the_same_files(tmp_path, choice):
    room = room_reconstruction(fit="pad", focals=(150.0, 160.0, 170.0))
    for name, same in (("memory", room), ("disk", on_disk(room, tmp_path / "frames"))):
        write_reconstruction(same, tmp_path / name, source=original_images(room), **choice)
    memory, disk = contents(tmp_path / "memory"), contents(tmp_path / "disk")
    assert list(memory) == list(disk)
    assert [name for name in memory if memory[name] != disk[name]] == []


def test_what_was_on_disk_is_loaded_as_it_was(tmp_path):
    room = room_reconstruction()
    write_reconstruction(on_disk(room, tmp_path / "frames"), tmp_path / "out", "npz")
    again = load_reconstruction(tmp_path / "out")
    for name in DENSE:
        np.testing.assert_array_equal(getattr(again, name), getattr(room, name), strict=True)


def export_watched(folder, count):
    """The peak of memory while `count` frames are exported in every format, and the most frames that it held."""

    class Watched(WatchedStack):
        pass

    long = on_disk(
        again_and_again(room_reconstruction(grid=(56, 70), original=(60, 80)), count), folder / "frames", Watched
    )
    source = GreyVideo(long.original_sizes)
    tracemalloc.start()
    try:
        write_reconstruction(long, folder / "out", source=source, confidence_percentile=30.0, max_points=20_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(contents(folder / "out")["manifest.json"]["points"]["written"].values()) == {20_000}
    return peak, Watched.most


def test_ten_times_the_frames_take_the_same_memory(tmp_path):
    write_reconstruction(room_reconstruction(), tmp_path / "first", "ply,glb")  # whose imports are not counted
    peaks, most = zip(*(export_watched(tmp_path / str(count), count) for count in (20, 200)))
    assert max(most) <= 3  # of depth, of valid, and of what is looked up there
    assert peaks[1] < 1.1 * peaks[0]
