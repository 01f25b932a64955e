"""The whole paper on small copies of all of its datasets: one command, from raw data to Tables 1 to 15."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from paper_on_disk import write_paper

from flow3r import cli
from flow3r.config import ModelConfig
from flow3r.errors import InputError
from flow3r.eval.benchmarks import BENCHMARKS
from flow3r.eval.run import ABLATION
from flow3r.eval.selftest import selftest
from flow3r.presets import PRESETS
from flow3r.reproduce import MEASURED, TRAINED, Paper, toy_model

ELSEWHERE = ("DUSt3R", "CUT3R")  # rows of methods that write their own samples


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper(tmp_path_factory.mktemp("paper") / "root")


@pytest.fixture(scope="module")
def out(root: Path) -> Path:
    out = root.parent / "out"
    reproduce(root, out)
    return out


def reproduce(root: Path, out: Path, *more: str) -> None:
    rehearsal = ("--scale", "1e-4", "--teacher", "classical", "--beside", "identity", "--workers", "1")
    cli.main(["reproduce", "paper", str(root), "-o", str(out), *rehearsal, "--device", "cpu", *more])


def cells(out: Path) -> list[dict[str, str]]:
    with open(out / "report" / "tables.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["table"].startswith("Table ")]


def test_every_number_of_the_paper_has_ours_beside_it(out: Path):
    printed = [cell for cell in cells(out) if cell["paper"]]
    assert len(printed) == 670
    empty = [(c["table"], c["heading"], c["method"], c["metric"]) for c in printed if not c["ours"]]
    assert {method for _, _, method, _ in empty} == set(ELSEWHERE)
    assert all(not cell["ours"] for cell in printed if cell["method"] in ELSEWHERE)


def test_every_run_learnt_from_what_its_preset_names(out: Path):
    for name in TRAINED:
        folder, data = out / "runs" / name, PRESETS[name].data
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        kinds = {"labelled" if any(key.startswith("labelled/") for key in r) else "unlabelled" for r in records}
        assert kinds <= ({"labelled", "unlabelled"} if data.unlabelled else {"labelled"}), name
        listed = {json.loads(file.read_text())["dataset"] for file in (folder / "sequences").iterdir()}
        assert listed == {source.dataset for source in (*data.labelled, *data.unlabelled)}, name


def test_nothing_is_done_twice(root: Path, out: Path, capsys: pytest.CaptureFixture):
    before = {path: path.stat().st_mtime_ns for path in (*out.rglob("*.npz"), *out.rglob("*.safetensors"))}
    capsys.readouterr()
    reproduce(root, out)
    printed = capsys.readouterr().out
    assert printed.count("there already") == len(TRAINED)
    assert printed.count(": 0 predicted, 0 scored") == sum(len(set(m)) + 1 for m in MEASURED.values())
    assert "Table 15" in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_benchmark_that_is_not_there_stays_empty_and_is_a_failure(root: Path, out: Path, tmp_path: Path):
    (tmp_path / "root").mkdir()
    for folder in root.iterdir():
        if folder.name != "bonn":
            (tmp_path / "root" / folder.name).symlink_to(folder)
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    shutil.rmtree(tmp_path / "out" / "scores" / "flow3r")
    for part in ("scores", "samples"):
        for folder in (tmp_path / "out" / part).glob("*/bonn*"):
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    with pytest.raises(SystemExit) as ended:
        reproduce(tmp_path / "root", tmp_path / "out", "--stages", "evaluate")
    assert ended.value.code == 1
    ours = {cell["table"] for cell in cells(tmp_path / "out") if cell["method"] == "Flow3r" and cell["ours"]}
    assert "Table 11" not in ours and {"Table 10", "Table 12"} <= ours  # Bonn's is the eleventh


def test_the_truth_scores_perfect_and_faults_are_seen_on_every_benchmark(root: Path):
    checks = list(selftest(root, BENCHMARKS.values()))
    assert not [check.text for check in checks if not check.passed]
    for name in BENCHMARKS:
        assert any(check.text.startswith(f"{name}: ") and "scores perfect" in check.text for check in checks), name
    assert sum("flow is mirrored" in check.text for check in checks) == 1  # where flow is measured


def test_toys_keep_the_variant_and_the_scale_keeps_proportions(tmp_path: Path):
    for name in TRAINED:
        model, toy = PRESETS[name].model, toy_model(PRESETS[name].model)
        assert type(toy) is type(model) and (toy.flow and toy.flow.kind) == (model.flow and model.flow.kind)
    tenth = Paper(tmp_path, tmp_path / "out", scale=0.1).scaled(PRESETS["table4-unlabelled-20k"])
    assert tenth.steps == 16_000 and tenth.model == PRESETS["table4-unlabelled-20k"].model
    assert [source.sequences for source in (*tenth.data.labelled, *tenth.data.unlabelled)] == [100, 2_000]
    whole = Paper(tmp_path, tmp_path / "out").scaled(PRESETS["flow3r-warmup"])
    assert whole.data == PRESETS["flow3r-warmup"].data and whole.steps == 50_000 and whole.init_from == "yyfz233/Pi3"
    assert whole.accumulate == PRESETS["flow3r-warmup"].devices  # one process does the work of eight
    assert isinstance(whole.model, ModelConfig)


def test_processes_that_cannot_share_the_batches_of_a_step_are_refused(tmp_path: Path, monkeypatch):
    eight = PRESETS["flow3r-warmup"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert eight.devices == 8 and Paper(tmp_path, tmp_path / "out").scaled(eight).accumulate == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="8 batches, which 3 processes cannot share equally"):
        Paper(tmp_path, tmp_path / "out").scaled(eight)


def test_who_is_measured_is_trained(tmp_path: Path):
    assert set(MEASURED) >= set(ABLATION)
    trained = {name for methods in MEASURED.values() for name in methods} - {"pi3", "vggt"}
    stages = {"flow3r-warmup", "flow3r-vggt-warmup", "flow3r-vggt-adapt"}
    assert trained | stages == set(TRAINED)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--scale", "0"], "--scale 0: expected more than 0 and at most 1"),
        (["--stages", "label,dream"], "--stages dream: expected some of label, train, evaluate"),
        (["--teacher", "classical"], "missing; expected Kinetics-700-2020: "),
        (["--teacher", "oracle"], "no teacher is called 'oracle'"),
        (["--stages", "label,train"], "in 2 processes: only --stages train is for several"),
    ],
)
def test_bad_input_is_named(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    if "processes" in said:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", "paper", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), *flags])
    assert ended.value.code == 1 and said in capsys.readouterr().err
