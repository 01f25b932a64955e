"""`flow3r train --root`: the paper's labelled datasets in their own formats, and videos, as one mixture."""

import dataclasses
import json
from pathlib import Path

import pytest
from labelled_on_disk import write_labelled
from made_media import write_video
from tiny_model import TINY

from flow3r import cli
from flow3r.cli import training
from flow3r.config import DataConfig, SourceConfig, TrainConfig
from flow3r.data.subsets import read_subset
from flow3r.data.worlds import render_worlds
from flow3r.presets import LABELLED

SMALL = TrainConfig(
    name="mixture",
    model=TINY,
    data=DataConfig(
        labelled=tuple(dataclasses.replace(source, sequences=1) for source in LABELLED),
        unlabelled=(SourceConfig("videos", 1),),
        views=(2, 2),
        images_per_batch=4,
        tokens=(9, 12),
        pairs_per_scene=1,
        stride_seconds=(0.04, 0.2),
        crop_clips=0.8,
        augment=False,
        workers=0,
    ),
    steps=24,
    precision="float32",
    log_every=1,
    checkpoint_every=100,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    assert write_labelled(root) == sorted(source.dataset for source in LABELLED)
    (root / "videos").mkdir()
    images = render_worlds([3], 8, (168, 224), difficulty=0.0).views.images[0]
    write_video(root / "videos" / "a.mp4", [(i.movedim(0, -1) * 255).round().byte().numpy() for i in images])
    return root


@pytest.fixture(autouse=True)
def _preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.PRESETS, "mixture", SMALL)


def test_a_mixture_of_eleven_datasets_and_videos_is_learnt_from(root: Path, tmp_path: Path):
    cli.main(["train", "mixture", "--root", str(root), "--teacher", "classical", "-o", str(tmp_path / "run")])
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(records) == SMALL.steps and all(None not in record.values() for record in records)
    assert any("labelled/points" in record for record in records)
    assert any("unlabelled/flow" in record for record in records)
    assert "unread" not in records[-1]
    lists = sorted((tmp_path / "run" / "sequences").iterdir())
    assert [read_subset(file).dataset for file in lists] == [
        source.dataset for source in (*LABELLED, *SMALL.data.unlabelled)
    ]


def test_what_a_run_would_see_is_told_from_what_is_there(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    cli.main(
        ["train", "mixture", "--root", str(root), "--teacher", "classical", "-o", str(tmp_path / "run"), "--dry-run"]
    )
    assert "labelled   11 sequences" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["mixture", "--root", "nowhere"], "missing; expected Common Objects in 3D"),
        (["mixture", "--root", "nowhere"], "videos: is unlabelled; give label stores (--labels) or a teacher"),
        (["nano", "--root", "nowhere"], "names no dataset"),
        (["mixture", "--root", "nowhere", "--data", "there"], "--root nowhere with --data"),
        (["mixture"], "is trained on"),
    ],
)
def test_what_is_missing_or_contradicts_is_named_and_nothing_is_written(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *flags, "-o", str(tmp_path / "run")])
    assert ended.value.code == 1 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
