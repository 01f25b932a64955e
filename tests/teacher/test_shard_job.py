"""A shard depends on what goes in alone; a bad source costs itself; what kills a worker is not tried for ever."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hard_media
import numpy as np
import pytest
from fixed_teacher import FixedTeacher
from made_media import write_video
from worst_teacher import FAILS, HANGS, KILLS, WorstTeacher

from flow3r.data.label_files import LabelFile, encode_file
from flow3r.data.labels import LabelStore, segment_of
from flow3r.data.shards import read_shard
from flow3r.data.video import open_source
from flow3r.errors import LabelStoreError
from flow3r.files import FilePart
from flow3r.teacher.label import LabelSettings
from flow3r.teacher.leases import Lease
from flow3r.teacher.shard_job import cut_shards, label_shard, shard_path
from flow3r.teacher.watch import Watched

SETTINGS = LabelSettings(segment_frames=6, pairs_per_frame=1.0)
TEACHER = FixedTeacher()


@pytest.fixture(scope="module")
def child() -> Iterator[Watched]:
    with Watched(TEACHER, SETTINGS, timeout=120) as child:
        yield child


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    return [str(write_video(folder / f"{k}.mp4", hard_media.pan(12, seed=k))) for k in range(3)]


def test_the_same_sources_make_the_same_bytes(videos, tmp_path, child):
    first = label_shard(videos, tmp_path / "a", TEACHER, SETTINGS, child=child)
    second = label_shard(videos, tmp_path / "b", TEACHER, SETTINGS, child=child)
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert sorted(file.name for file in (tmp_path / "a" / "work").iterdir()) == []
    before = first.stat().st_mtime_ns
    assert label_shard(videos, tmp_path / "a", TEACHER, SETTINGS, child=child) == first
    assert first.stat().st_mtime_ns == before


def test_a_shard_is_gone_on_with_from_what_was_finished(videos, tmp_path, child):
    whole = label_shard(videos, tmp_path / "whole", TEACHER, SETTINGS, child=child)
    work = tmp_path / "half" / "work" / whole.stem
    child.label(videos[0], work, {})
    marked = tmp_path / "marked" / "work" / whole.stem
    shutil.copytree(work, marked)
    finished = sorted(marked.glob("*.labels"))
    assert len(finished) == 2
    for path in finished:
        file = LabelFile.open(FilePart(str(path)))
        path.write_bytes(encode_file({**file.header, "mark": path.name}, file.read(range(len(file.blocks)))))
    label_shard(videos, tmp_path / "half", TEACHER, SETTINGS, child=child)
    assert (tmp_path / "half" / whole.name).read_bytes() == whole.read_bytes()
    assert not work.exists()
    shard = read_shard(str(label_shard(videos, tmp_path / "marked", TEACHER, SETTINGS, child=child)))
    marks = [LabelFile.open(place).header.get("mark") for _, place in shard.segments]
    assert marks == [finished[0].name, finished[1].name, None, None, None, None]


def test_more_sources_leave_full_shards_as_they_were():
    names = [f"{k}.mp4" for k in range(10)]
    few, many = cut_shards(names[:7], 3), cut_shards(names, 3)
    assert few[:2] == many[:2]
    assert shard_path(few[2], "x") != shard_path(many[2], "x")
    assert cut_shards([["a.png", Path("b.png")]]) == [[["a.png", "b.png"]]]


def test_bad_input_costs_itself_alone_and_is_reported(tmp_path, child):
    made = [make(tmp_path / f"{make.__name__}.mp4") for make in (*hard_media.READABLE, *hard_media.UNREADABLE)]
    sources = [str(path) for path in made] + [str(tmp_path / "missing.mp4")]
    path = label_shard(sources, tmp_path / "out", TEACHER, SETTINGS, child=child)
    shard = read_shard(str(path))
    assert [Path(name).stem for name, _ in shard.report["failures"]] == ["empty", "sound_only", "missing"]
    labelled = {}
    for header, _ in shard.segments:
        segment = segment_of(header)
        labelled.setdefault(segment.source, []).append(segment)
    assert labelled.keys() == {make.__name__ for make in hard_media.READABLE}
    assert all(any(segment.pairs for segment in segments) for segments in labelled.values())
    assert labelled["rotated"][0].original_sizes[0] == (hard_media.WIDTH, hard_media.HEIGHT)
    assert labelled["an_hour_long"][-1].timestamps[-1] == pytest.approx(39 * 92)
    assert labelled["variable_rate"][1].timestamps[2] == pytest.approx(0.9)
    assert len(labelled["truncated"]) < 5


def combing(image: np.ndarray) -> float:
    """How far rows lie from the mean of their neighbours."""
    grey = image.astype(float).mean(axis=-1)
    return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())


def test_an_interlaced_frame_is_of_one_time(tmp_path):
    """Woven with the next field, every other row would be STEP pixels away."""
    path, fields = hard_media.interlaced(tmp_path / "interlaced.mp4"), hard_media.pan(25)
    for frame, first, second in zip(open_source(path).frames(range(12)), fields[::2], fields[1::2]):
        woven = np.where((np.arange(hard_media.HEIGHT) % 2)[:, None, None], second, first)
        assert combing(frame.image) < 0.3 * combing(woven)


def test_one_corrupt_video_among_a_hundred_costs_only_itself(tmp_path, child):
    images = hard_media.pan(101)
    sources = [write_video(tmp_path / f"{k:03d}.mp4", images[k : k + 2]) for k in range(100)]
    sources[50].write_bytes(sources[50].read_bytes()[:300])
    path = label_shard([str(source) for source in sources], tmp_path / "out", TEACHER, SETTINGS, child=child)
    shard = read_shard(str(path))
    assert [name for name, _ in shard.report["failures"]] == [str(sources[50])]
    assert [header["source"] for header, _ in shard.segments] == [f"{k:03d}" for k in range(100) if k != 50]


def test_the_same_content_is_labelled_once(videos, tmp_path, child):
    copy = shutil.copy(videos[0], tmp_path / "copy.mp4")
    shard = read_shard(str(label_shard([videos[0], str(copy)], tmp_path / "out", TEACHER, SETTINGS, child=child)))
    assert shard.report["skipped"] == [[str(copy), f"the same content as {videos[0]}"]]
    assert {header["source"] for header, _ in shard.segments} == {"0"}


def test_where_nothing_can_be_labelled_nothing_is_stored(tmp_path, child):
    missing = [str(tmp_path / f"{k}.mp4") for k in range(10)]
    with pytest.raises(LabelStoreError, match=r"none of 10 sources .*no such file"):
        label_shard(missing, tmp_path / "out", TEACHER, SETTINGS, child=child)
    assert not shard_path(missing, tmp_path / "out").exists()


def test_what_kills_or_hangs_its_process_twice_is_skipped(tmp_path):
    """The others of its shard are labelled as ever."""
    lengths = (KILLS, 4, HANGS, FAILS, 6)
    settings = LabelSettings(segment_frames=8, pairs_per_frame=1.0)
    sources = [str(write_video(tmp_path / f"{n}.mp4", hard_media.pan(n))) for n in lengths]
    path = label_shard(sources, tmp_path / "out", WorstTeacher(), settings, timeout=2.0)
    shard = read_shard(str(path))
    said = {Path(name).stem: reason for name, reason in shard.report["failures"]}
    assert said.keys() == {str(KILLS), str(HANGS), str(FAILS)}
    assert "skipped after 2 attempts: its process died (SIGKILL)" in said[str(KILLS)]
    assert "nothing was decoded or labelled for 2 s" in said[str(HANGS)]
    assert "RuntimeError: out of memory" in said[str(FAILS)]
    assert {header["source"] for header, _ in shard.segments} == {"4", "6"}


def test_a_source_that_took_its_worker_along_twice_is_skipped(videos, tmp_path, child):
    """A worker that dies itself cannot say so: what it had begun and not ended stands beside its work."""
    work = tmp_path / "work" / shard_path(videos, tmp_path).stem
    LabelStore(work, SETTINGS.with_teacher(TEACHER))
    entry = {"deaths": 2, "segments": 0, "reason": "its worker died"}
    (work / "attempts.json").write_text(f'{{"{videos[0]}": {entry}}}'.replace("'", '"'))
    shard = read_shard(str(label_shard(videos, tmp_path, TEACHER, SETTINGS, child=child)))
    assert shard.report["failures"] == [[videos[0], f"{videos[0]}: skipped after 2 attempts: its worker died"]]
    assert {header["source"] for header, _ in shard.segments} == {"1", "2"}


def test_a_lease_is_held_by_one_and_ends_with_its_holder(tmp_path):
    with Lease.take(tmp_path, 60):
        assert Lease.take(tmp_path, 60) is None
    other = "import sys, time; from pathlib import Path; from flow3r.teacher.leases import Lease\n"
    other += "Lease.take(Path(sys.argv[1]), 60).__enter__(); print('held', flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", other, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert Lease.take(tmp_path, 60) is None
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with Lease.take(tmp_path, 60) as taken:
        assert taken is not None


def test_a_lease_of_another_host_ends_when_it_is_not_renewed(tmp_path):
    file = tmp_path / "lease-0"
    file.write_text('["another-host", 1]')
    assert Lease.take(tmp_path, 60) is None
    past = time.time() - 61
    os.utime(file, (past, past))
    taken = Lease.take(tmp_path, 60)
    assert taken.path.name == "lease-1"
    assert Lease.take(tmp_path, 60) is None


def test_a_lease_is_renewed_while_it_is_held(tmp_path):
    with Lease.take(tmp_path, 0.4) as lease:
        time.sleep(0.8)
        file = lease.path
        file.write_text('["another-host", 1]')
        time.sleep(0.3)
        assert Lease.take(tmp_path, 0.4) is None


def test_a_shard_that_another_has_is_left_to_it(videos, tmp_path):
    with Lease.take(tmp_path / "work" / shard_path(videos, tmp_path).stem, 60):
        assert label_shard(videos, tmp_path, TEACHER, SETTINGS) is None


def test_every_file_says_what_made_it(videos, tmp_path, child):
    label_shard(videos[:1], tmp_path, TEACHER, SETTINGS, child=child)
    store = LabelStore(tmp_path)
    for segment in store.segments():
        made = store.made_with(segment)
        assert made == store.settings
        assert (made["teacher"], made["parameters"], made["licence"]) == ("fixed", {"reach": 5}, None)
