"""A copy for machines without video libraries: the same clips to the bit, as small as asked, read by torch alone."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_media import texture
from tiny_model import TINY

from flow3r.cli import main
from flow3r.config import DataConfig, TrainConfig
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore, Refusal, Segment, SegmentInfo
from flow3r.data.mixture import Wanted, stream
from flow3r.data.predecode import predecode
from flow3r.errors import InputError, LabelStoreError
from flow3r.train.loop import train
from flow3r.types import Flow

SIZE, FRAMES = (28, 42), 5
PAIRS = tuple((i, j) for i in range(FRAMES) for j in range(FRAMES) if 0 < abs(i - j) < 3)
ABSENT = ("av", "cv2", "zstandard", "scipy", "PIL", "tyro", "pyarrow", "fsspec", "huggingface_hub")


def write_segment(
    store: LabelStore, number: int, pairs: tuple[tuple[int, int], ...] = PAIRS, source: str = "a"
) -> None:
    generator, first = torch.Generator().manual_seed(number), FRAMES * number
    displacement = 20 * torch.randn(1, len(pairs), *SIZE, 2, generator=generator)
    covisible = torch.rand(1, len(pairs), *SIZE, generator=generator)
    covisible[covisible < 0.3] = 0
    info = SegmentInfo(
        source="a",
        source_sha256="c0ffee" * 10,
        shot=(first, first + FRAMES),
        indices=tuple(range(first, first + FRAMES)),
        timestamps=tuple(k / 25 for k in range(first, first + FRAMES)),
        names=tuple(f"a{k}" for k in range(first, first + FRAMES)),
        original_sizes=(SIZE,) * FRAMES,
        size=SIZE,
        model_from_original=(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * FRAMES,
        pairs=pairs,
        covisible_share=(0.5,) * len(pairs),
        median_flow=(5.0,) * len(pairs),
        refusals=(Refusal(0, 4, "too far"),),
    )
    images = np.stack([texture(*SIZE, first + k) for k in range(FRAMES)])
    flow = Flow(torch.tensor(pairs).long().reshape(1, -1, 2), displacement, covisible)
    store.write(Segment(info, images if pairs else images[:0], flow))


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Six segments of one video, one of them without a pair."""
    store = LabelStore(tmp_path / "store", {"teacher": "classical", "parameters": {"border": 3}})
    for number in range(5):
        write_segment(store, number)
    write_segment(store, 5, pairs=())
    return store


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has the import floor and no more."""
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, name, None)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_the_same_clips_are_drawn_to_the_bit(store: LabelStore, tmp_path: Path):
    predecode(store.folder, tmp_path / "copy")
    originals, copies = LabelClips(store, held_out=0.2), LabelClips(LabelStore(tmp_path / "copy"), held_out=0.2)
    assert originals.training_count == copies.training_count > 0
    for step in range(4):
        wanted = originals.fit(Wanted(step, 3, 3, (14, 14), 4), stream(0, step, "fit"))
        assert copies.fit(Wanted(step, 3, 3, (14, 14), 4), stream(0, step, "fit")) == wanted
        one, other = (clips.draw(wanted, stream(0, step, "draw")) for clips in (originals, copies))
        assert one.names == other.names and one.images.equal(other.images)
        assert one.flow.pairs.equal(other.flow.pairs)
        assert one.flow.displacement.equal(other.flow.displacement) and one.flow.covisible.equal(other.flow.covisible)
    for one, other in zip(originals.held_out_pairs(), copies.held_out_pairs(), strict=True):
        assert one.images.equal(other.images) and one.flow.displacement.equal(other.flow.displacement)


def test_the_copy_says_what_it_was_made_with_and_what_was_refused(store: LabelStore, tmp_path: Path):
    predecode(store.folder, tmp_path / "copy")
    copy = LabelStore(tmp_path / "copy")
    assert copy.settings == store.settings
    assert copy.segments() == tuple(one for one in store.segments() if one.pairs)
    assert all(copy.made_with(one) == store.settings for one in copy.segments())


def test_a_bare_machine_reads_no_original(store: LabelStore, bare: None):
    with pytest.raises(ImportError):
        LabelClips(store).draw(Wanted(0, 1, 2, SIZE, 1), stream(0, 0, "draw"))


def test_a_bare_machine_trains_from_the_copy(store: LabelStore, tmp_path: Path, request: pytest.FixtureRequest):
    predecode(store.folder, tmp_path / "copy")
    request.getfixturevalue("bare")
    data = DataConfig(views=(2, 2), images_per_batch=4, pairs_per_scene=2, workers=0, unlabelled_share=1.0)
    config = TrainConfig(name="test", model=TINY, data=data, steps=2)
    clips = LabelClips(LabelStore(tmp_path / "copy"), crop=0.6)
    data = dataclasses.replace(data, tokens=(4, 6), aspect=(1, 1.5))
    result = train(dataclasses.replace(config, data=data), tmp_path / "run", clips=clips, device="cpu", quiet=True)
    assert result.steps == 2 and clips.counts()["stored pairs"] > 0


def test_the_limit_is_kept_and_what_is_left_out_is_said(store: LabelStore, tmp_path: Path):
    whole = predecode(store.folder, tmp_path / "whole")
    assert whole.size_bytes == size_of(tmp_path / "whole") and (whole.segments, whole.segments_left) == (5, 0)
    assert (whole.frames, whole.pairs) == (5 * FRAMES, 5 * len(PAIRS))
    limit = round(0.7 * whole.size_bytes)
    part = predecode(store.folder, tmp_path / "part", limit)
    assert part.size_bytes == size_of(tmp_path / "part") <= limit
    assert (part.segments, part.segments_left) == (3, 2) and part.pairs_left == 2 * len(PAIRS)
    assert "left out for want of room: 2 segments" in part.lines()[1] and len(whole.lines()) == 1
    again = predecode(store.folder, tmp_path / "again", limit)
    assert again == part
    assert {f.name for f in (tmp_path / "again").iterdir()} == {f.name for f in (tmp_path / "part").iterdir()}
    assert {f.name for f in (tmp_path / "part").iterdir()} < {f.name for f in (tmp_path / "whole").iterdir()}


def test_what_cannot_be_copied_is_refused_and_nothing_is_left(store: LabelStore, tmp_path: Path):
    with pytest.raises(InputError, match=r"its segments take .* MB and more; expected one of at most 0\.01 MB"):
        predecode(store.folder, tmp_path / "copy", 10_000)
    with pytest.raises(LabelStoreError, match="not a label store"):
        predecode(tmp_path / "nothing", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
    empty = LabelStore(tmp_path / "empty", {})
    write_segment(empty, 0, pairs=())
    with pytest.raises(InputError, match="no accepted pair"):
        predecode(empty.folder, tmp_path / "copy")
    (tmp_path / "copy").mkdir()
    with pytest.raises(InputError, match="exists already; choose a new folder"):
        predecode(store.folder, tmp_path / "copy")


def test_damage_is_noticed_as_in_any_store(store: LabelStore, tmp_path: Path):
    predecode(store.folder, tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*.labels"):
        data = bytearray(file.read_bytes())
        data[-20] ^= 255
        file.write_bytes(data)
    copy = LabelStore(tmp_path / "copy")
    with pytest.raises(LabelStoreError, match="is damaged"):
        copy.flow(copy.segments()[0], range(len(PAIRS)))


def test_the_command_copies_and_says_what(store: LabelStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["data", "predecode", str(store.folder), str(tmp_path / "copy"), "--size-mb", "1"])
    assert "5 segments, 25 frames" in capsys.readouterr().out
    assert size_of(tmp_path / "copy") < 1_000_000
