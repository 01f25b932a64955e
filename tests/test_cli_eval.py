"""`flow3r eval` as a user meets it: what is refused before anything is written, what is checked, where it exits."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nrgbd_on_disk import write_nrgbd
from rendered import rendered_scene
from synthetic_room import intrinsics_of, walk

from flow3r import cli
from flow3r.cli import evaluation
from flow3r.eval import run as stages
from flow3r.eval.methods import identity_method
from flow3r.eval.samples import Sample, write_sample

SIZE = (48, 64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the nine scenes of NRGBD."""
    root = tmp_path_factory.mktemp("root")
    seen = rendered_scene(size=SIZE, intrinsics=intrinsics_of(60.0, SIZE), poses=walk(8))
    write_nrgbd(root / "nrgbd" / "kitchen", seen)
    return root


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The identity on few pixels."""
    monkeypatch.setattr(stages, "method_called", lambda name, device=None: identity_method((6, 12)))
    stages._method.cache_clear()
    yield
    stages._method.cache_clear()


def run(root: Path, out: Path, *more: str) -> None:
    quick = ("--methods", "identity", "--benchmarks", "nrgbd", "--workers", "1", "--budget", "50", "--no-pictures")
    cli.main(["eval", "run", str(root), "-o", str(out), *quick, *more])


def ends(code: int, root: Path, out: Path, *more: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(root, out, *more)
    assert ended.value.code == code


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--methods", "nano,other=missing.pth"], "missing.pth"),
        (["--methods", "identity,identity"], "more than one method would be called identity"),
        (["--methods", "a=nano,runs/a"], "more than one method would be called a"),
        (["--methods", "a/b=nano"], "would be called 'a/b'; expected NAME=FILE with a plain name"),
        (["--methods", "samples:theirs"], "theirs: no such folder; samples:theirs needs samples there"),
        (["--methods", ","], "no method given"),
        (["--workers", "0"], "workers 0: expected at least 1"),
        (["--draws", "0"], "draws 0: expected at least 1"),
        (["--budget", "0"], "budget 0: expected at least 1"),
        (["--gpus", "-1"], "gpus -1: expected at least 0"),
        (["--device", "gpu"], "device gpu: cannot be used here"),
        (["--benchmarks", "nrgbd,bonn"], "bonn: no such folder; bonn needs"),
        (["--benchmarks", "nrgbd,sintle"], "no benchmark is called 'sintle'"),
        (["--benchmarks", "ablation"], "none of the benchmarks of 'ablation' has data there"),
        (["--stages", ","], "expected some of predict, score, report"),
        (["--stages", "report"], "nothing has been scored there"),
    ],
)
def test_flags_that_cannot_be_meant_are_one_line_and_nothing_is_written(root, tmp_path, capsys, flags, said):
    ends(1, root, tmp_path / "out", *flags)
    errors = capsys.readouterr().err
    assert errors.startswith("flow3r: ") and errors.count("\n") == 1 and said in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "flag"),
    [(["worlds"], "--scenes"), (["worlds"], "--views"), (["folder", "x"], "--frames"), (["manifest", "x"], "--draws")],
)
def test_nothing_cannot_be_measured(command, flag, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", *command, flag, "0", "-o", str(out)])
    assert ended.value.code == 1 and capsys.readouterr().err == f"flow3r: {flag} 0: expected at least 1\n"
    assert not out.exists()


@pytest.mark.parametrize("command", ["run", "manifest"])
def test_a_file_is_no_folder_for_a_run(root, tmp_path, capsys, command):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", command, str(root), "-o", str(tmp_path / "out"), "--benchmarks", "nrgbd"])
    assert ended.value.code == 1 and "out: is a file; expected a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_missing_sequences_make_the_exit_code_one_until_they_are_left_out_on_purpose(root, tmp_path, capsys, coarse):
    ends(1, root, tmp_path, "--stages", "predict,score", "--draws", "1")
    assert capsys.readouterr().err == "flow3r: 8 sequences are missing, see above\n"
    cli.main(["eval", "manifest", str(root), "-o", str(tmp_path), "--benchmarks", "nrgbd", "--draws", "1"])
    printed = capsys.readouterr().out
    assert "left out: staircase: not there" in printed and len(printed.split()[0]) == 64
    run(root, tmp_path)
    printed = capsys.readouterr()
    assert "0 predicted, 0 scored, of 1" in printed.out and not printed.err
    written = [line.strip() for line in printed.out.splitlines() if line.startswith("  /")]
    assert [Path(path).name for path in written] == ["tables.md", "tables.tex", "tables.csv", "tables.json"]
    assert all(Path(path).is_file() for path in written)


def test_failed_samples_make_the_exit_code_one_every_time(root, tmp_path, capsys, monkeypatch, coarse):
    cli.main(["eval", "manifest", str(root), "-o", str(tmp_path), "--benchmarks", "nrgbd", "--draws", "2"])

    def unlucky(views):
        raise RuntimeError("out of [luck]")

    broken = replace(identity_method((6, 12)), predictor=unlucky)
    monkeypatch.setattr(stages, "method_called", lambda name, device=None: broken)
    for _ in range(2):
        stages._method.cache_clear()
        capsys.readouterr()
        ends(1, root, tmp_path)
        printed = capsys.readouterr()
        assert printed.err == f"flow3r: {draws_of(tmp_path)} samples failed and have the worst scores, see above\n"
        assert "failed: kitchen 0: the method gave no sample: RuntimeError: out of [luck]" in printed.out
    monkeypatch.undo()
    ends(1, root, tmp_path, "--stages", "score")


def draws_of(out: Path) -> int:
    return len((out / "manifests" / "nrgbd.jsonl").read_text().splitlines())


def test_check_says_what_breaks_the_contract(tmp_path, capsys):
    good = Sample(np.arange(2), np.tile(np.eye(4), (2, 1, 1)), np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 6, 8, 3)))
    write_sample(tmp_path / "a" / "0.npz", good)
    cli.main(["eval", "check", str(tmp_path)])
    assert "0.npz: 2 views of 8 x 6" in capsys.readouterr().out.replace("\n", "")
    np.savez(tmp_path / "a" / "1.npz", format=np.array("flow3r-sample-1"), frames=np.arange(2))
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "check", str(tmp_path)])
    printed = capsys.readouterr()
    assert ended.value.code == 1 and printed.err.startswith("flow3r: 1 of 2 files do not keep the contract")
    assert "missing: world_from_camera, grid_from_image" in printed.out
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", "check", str(tmp_path / "empty.d")])
    assert ended.value.code == 1


@pytest.mark.parametrize("name", [*evaluation.COMMANDS, "reproduce"])
def test_every_flag_is_explained_in_the_help(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = evaluation.COMMANDS.get(name, evaluation.reproduce)
    with pytest.raises(SystemExit) as ended:
        cli.main([*(["eval"] if name in evaluation.COMMANDS else []), name, "--help"])
    printed = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    assert ended.value.code == 0
    for parameter in inspect.signature(command).parameters:
        (explained,) = re.findall(rf"^ +{parameter}: (.*)$", command.__doc__, flags=re.M)
        assert explained in printed, parameter
