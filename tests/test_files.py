"""Files are whole or absent, whatever happens while they are written; hashes are those of the content.

A stack of frames on disk is an array of them.
"""

import hashlib
import os
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from flow3r.files import (
    FilePart,
    FrameStack,
    atomic_path,
    list_files,
    sha256_of_bytes,
    sha256_of_file,
    sha256_of_json,
    write_bytes,
    write_json,
    write_text,
)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "points.ply"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".ply"
        temporary.write_text("half")
        assert not path.exists()
    assert contents(tmp_path) == {"new/folder/points.ply": b"half"}


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk"), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError("disk full")
    assert contents(tmp_path) == {"a.txt": b"old"}


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "result"
    for generation in ("first", "second"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / generation).write_text(generation)
    assert contents(tmp_path) == {"result/second": b"second"}


def test_a_folder_that_fails_leaves_the_old_folder(tmp_path):
    (tmp_path / "result").mkdir()
    write_text(tmp_path / "result" / "kept", "kept")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "result") as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise RuntimeError
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "result"):
        pass  # nothing was written
    assert contents(tmp_path) == {"result/kept": b"kept"}


@pytest.mark.skipif(os.name != "posix", reason="kills a process by signal")
def test_a_kill_while_writing_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    program = (
        "import sys, time; from flow3r.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('new'); print('written', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_text() == "old"
    write_text(path, "newer")
    assert path.read_text() == "newer"


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_bytes(b"1" * 1000)
        second.write_bytes(b"2" * 1000)
    assert contents(tmp_path) == {"a.bin": b"1" * 1000}


def test_written_text_bytes_and_json_come_back(tmp_path):
    write_text(tmp_path / "a", "größe\n")
    write_bytes(tmp_path / "b", b"\x00\xff")
    write_json(tmp_path / "c.json", {"π": [1, 2.5, None]})
    assert (tmp_path / "a").read_text(encoding="utf-8") == "größe\n"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert (tmp_path / "c.json").read_text(encoding="utf-8") == '{\n  "π": [\n    1,\n    2.5,\n    null\n  ]\n}\n'


def test_json_without_meaning_is_refused_and_not_written(tmp_path):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            write_json(tmp_path / "a.json", {"loss": value})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("remote", [False, True])
def test_a_part_is_a_slice_of_its_file_on_a_disk_and_behind_a_url(tmp_path, remote):
    content, where = bytes(range(100)), str(tmp_path)
    if remote:
        where = f"memory://{tmp_path.name}"
        pytest.importorskip("fsspec").filesystem("memory").pipe(f"/{tmp_path.name}/all.bin", content)
    (tmp_path / "all.bin").write_bytes(content)
    (path,) = list_files(where, ".bin")
    whole, rest, part = FilePart(path), FilePart(path, 90), FilePart(path, 10, 80).part(5, 20)
    assert [one.read() for one in (whole, rest, part)] == [content, content[90:], content[15:35]]
    assert part.read_ranges([(0, 3), (18, 4), (80, 30)]) == [content[15:18], content[33:37], content[95:]]
    assert FilePart(path, 90, 50).read() == content[90:]
    names = [str(one) for one in (whole, part, FilePart(path, 2, 3, "a/b.mp4"))]
    assert names == [path, f"{path} (bytes from 15)", f"{path}/a/b.mp4"]
    with pytest.raises(FileNotFoundError):
        FilePart(f"{where}/missing.bin").read()


def test_hashes_are_of_the_content(tmp_path):
    data = os.urandom(100_000)
    write_bytes(tmp_path / "a", data)
    assert sha256_of_file(tmp_path / "a") == sha256_of_bytes(data) == hashlib.sha256(data).hexdigest()
    assert sha256_of_json({"a": 1, "b": [2]}) == sha256_of_json({"b": [2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool", "int64"])
@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 2, 3, 3), (5,), (5, 0, 4), (0, 3)])
def test_a_stack_of_frames_is_the_array_of_them(tmp_path, dtype, shape):
    frames = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    stack = FrameStack.create(tmp_path / "new" / "stack.npy", shape, dtype)
    np.testing.assert_array_equal(np.load(stack.path), np.zeros(shape, dtype))
    for index in reversed(range(len(frames))):
        stack[index] = frames[index]
    for same in (stack, FrameStack(stack.path)):
        assert (len(same), same.shape, same.ndim, same.dtype) == (len(frames), shape, frames.ndim, np.dtype(dtype))
        for found in (np.asarray(same), np.load(same.path, allow_pickle=False), np.array(list(same), dtype)):
            np.testing.assert_array_equal(found.reshape(shape), frames, strict=True)
        for window in (slice(1, 3), slice(None), slice(-2, None), slice(3, 1), slice(4, 99)):
            np.testing.assert_array_equal(same[window], frames[window], strict=True)


def test_a_frame_that_was_read_is_a_copy(tmp_path):
    stack = FrameStack.create(tmp_path / "a.npy", (4, 2), "float32")
    stack[1:3] = np.ones((2, 2), np.float32)
    stack[np.int64(-1)] = np.full((2, 2), 7, np.float32)[:, 0]
    frame = stack[1]
    frame += 1
    np.testing.assert_array_equal(stack[:], [[0, 0], [1, 1], [1, 1], [7, 7]])


def test_frames_of_another_shape_type_or_number_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    stack = FrameStack.create(path, (4, 2, 3), np.float32)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"got float32 \(3, 2\); expected float32 \(2, 3\)"):
        stack[0] = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"got float64 \(2, 3\); expected float32"):
        stack[0] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"expected float32 \(2, 2, 3\)"):
        stack[2:4] = np.zeros((2, 3), np.float32)
    for outside in (4, -5):
        with pytest.raises(IndexError, match="expected -4 to 3"):
            stack[outside]
    with pytest.raises(IndexError, match="consecutive"):
        stack[::2]
    with pytest.raises(ValueError, match="always a copy"):
        np.asarray(stack, copy=False)
    for shape, dtype in (((), "float32"), ((4, -1), "float32"), ((4,), object)):
        with pytest.raises(ValueError, match="expected numbers"):
            FrameStack.create(tmp_path / "b.npy", shape, dtype)
    assert contents(tmp_path) == {"a.npy": before}


def test_a_file_that_holds_no_stack_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"is no \.npy file"):
        FrameStack(path)
    np.save(path, np.zeros((3, 4), order="F"))
    with pytest.raises(ValueError, match="in C order"):
        FrameStack(path)
    stack = FrameStack.create(path, (3, 4), "float64")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="bytes; expected"):
        FrameStack(path)
    with pytest.raises(OSError, match="ended within frame 2"):
        stack[2]
    with pytest.raises(FileNotFoundError):
        FrameStack(tmp_path / "none.npy")


def test_going_through_a_stack_holds_one_frame(tmp_path):
    stack = FrameStack.create(tmp_path / "a.npy", (100, 100, 100), "float64")
    tracemalloc.start()
    for index, frame in enumerate(stack):
        stack[index] = frame + index
        del frame
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stack[99].mean() == 99 and peak < 3 * 80_000
