"""Files are whole or absent, whatever happens while they are written; hashes are those of the content."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from flow3r.files import (
    atomic_path,
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


def test_hashes_are_of_the_content(tmp_path):
    data = os.urandom(100_000)
    write_bytes(tmp_path / "a", data)
    assert sha256_of_file(tmp_path / "a") == sha256_of_bytes(data) == hashlib.sha256(data).hexdigest()
    assert sha256_of_json({"a": 1, "b": [2]}) == sha256_of_json({"b": [2], "a": 1})
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})
