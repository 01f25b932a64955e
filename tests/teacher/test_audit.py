"""The audit passes a sound store and names each planted fault."""

import dataclasses
import io
import json
import re
from pathlib import Path

import hard_media
import pytest
from fixed_teacher import FixedTeacher
from made_media import write_video
from rich.console import Console

from flow3r.cli import main
from flow3r.data.labels import LabelStore
from flow3r.data.shards import read_shard, write_shard
from flow3r.data.video import open_source
from flow3r.errors import LabelStoreError
from flow3r.teacher.audit import Audit, audit
from flow3r.teacher.label import LabelSettings, label_source

SETTINGS = LabelSettings(segment_frames=6, pairs_per_frame=1.0)


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "pan.mp4", hard_media.pan(12))


@pytest.fixture
def store(video, tmp_path) -> LabelStore:
    """Two segments in a shard."""
    made_with = SETTINGS.with_teacher(FixedTeacher())
    loose, store = LabelStore(tmp_path / "loose", made_with), LabelStore(tmp_path / "store", made_with)
    files = [result.path for result in label_source(open_source(video), loose, FixedTeacher(), SETTINGS)]
    write_shard(tmp_path / "store" / "shard-0.tar", {"sources": ["pan.mp4"], "failures": [], "skipped": []}, files)
    return store


def wrong(result: Audit) -> list[str]:
    return [check.name for check in result.checks if check.wrong]


def test_a_sound_store_passes_and_its_labels_are_made_again(store, video):
    result = audit(store.folder, teacher=FixedTeacher(), sources=[video])
    assert result.ok
    (again,) = (check for check in result.checks if "again" in check.name)
    assert (again.asked, again.value) == (2, "2 of 2 bit for bit")
    assert result.table().row_count == len(result.checks) == 7


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(LabelStoreError, match="not a label store"):
        audit(tmp_path)


def test_damage_is_found_in_labels_and_in_the_shard(store):
    path = Path(store.folder) / "shard-0.tar"
    whole = path.read_bytes()
    place = read_shard(str(path)).segments[1][1]
    damaged = bytearray(whole)
    damaged[place.offset + place.size - 1] ^= 1
    path.write_bytes(damaged)
    assert wrong(audit(store.folder)) == ["blocks are whole, numbers are those of the header"]
    path.write_bytes(whole[:200])
    assert wrong(audit(store.folder)) == ["shards are readable", "headers are readable"]


def test_labels_of_another_maker_are_found(store):
    manifest = Path(store.folder) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["parameters"]["reach"] = 9
    manifest.write_text(json.dumps(content))
    result = audit(store.folder, teacher=FixedTeacher(), sources=[])
    assert wrong(result) == ["made with what the manifest says", "labelled again, they are the same"]


def test_another_teachers_answer_is_found(store, video):
    """One that says that it is the same and is not: as code that changed without its version."""

    class Other(FixedTeacher):
        def __call__(self, images, pairs):
            labels = super().__call__(images, pairs)
            flow = dataclasses.replace(labels.flow, displacement=labels.flow.displacement + 2)
            return dataclasses.replace(labels, flow=flow)

    result = audit(store.folder, teacher=Other(), sources=[video])
    assert wrong(result) == ["labelled again, they are the same"]
    assert re.search(r"px apart", result.checks[-1].wrong[0])


def test_flow_that_does_not_lead_back_is_found(video, tmp_path):
    class OneWay(FixedTeacher):
        def __call__(self, images, pairs):
            labels = super().__call__(images, pairs)
            flow = dataclasses.replace(labels.flow, displacement=labels.flow.displacement.abs() + 4)
            return dataclasses.replace(labels, flow=flow)

    store = LabelStore(tmp_path / "oneway", SETTINGS.with_teacher(OneWay()))
    list(label_source(open_source(video), store, OneWay(), SETTINGS))
    assert wrong(audit(store.folder)) == ["forward and backward agree"]


def test_where_there_is_nothing_to_check_no_share_is_told(store, video, tmp_path):
    empty = LabelStore(tmp_path / "empty", SETTINGS.with_teacher(FixedTeacher()))
    result = audit(empty.folder)
    checks = {check.name: check for check in result.checks}
    assert result.ok and checks["forward and backward agree"].asked == 0
    assert checks["forward and backward agree"].value == "nothing to check: no pair is labelled both ways"
    printed = Console(file=io.StringIO(), width=200)
    printed.print(result.table())
    assert printed.file.getvalue().count("nothing to check") == 3 and "%" not in printed.file.getvalue()
    other = write_video(tmp_path / "other.mp4", hard_media.pan(12)[::-1])
    again = audit(store.folder, teacher=FixedTeacher(), sources=[other]).checks[-1]
    assert (again.asked, again.value) == (0, "nothing to check: no sampled segment is of these sources")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--videos", "a.mp4"], "--videos without --teacher: labels are made again from both"),
        (["--teacher", "classical"], "--teacher classical without --videos: labels are made again from both"),
        (["--sample", "0"], "--sample 0: expected at least 1"),
    ],
)
def test_flags_that_would_check_nothing_are_refused(flags, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["audit", "nowhere", *flags])
    assert exit_.value.code == 1 and said in capsys.readouterr().err


def test_an_index_of_another_state_is_found(store):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (flow3r[scale])")
    from flow3r.data.pair_index import write_pair_index

    write_pair_index(store)
    assert audit(store.folder).ok
    path = Path(store.folder) / "shard-0.tar"
    path.rename(path.with_suffix(".gone"))
    assert wrong(audit(store.folder)) == ["the index has every pair once"]
