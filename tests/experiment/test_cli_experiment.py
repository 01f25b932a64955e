"""`flow3r experiment` as a user meets it: what it would run, what it refuses, and what its flags mean."""

import inspect
import re
from pathlib import Path

import pytest

from flow3r import cli
from flow3r.cli.experiment import experiment


def test_a_dry_run_says_what_would_be_run_with_steps_and_time_and_runs_nothing(tmp_path: Path, capsys):
    out = tmp_path / "out"
    wanted = ("--regimes", "static", "--arms", "3d-sup", "flow-factored", "--seeds", "0", "1")
    cli.main(["experiment", "table1", "--dry-run", "-o", str(out), *wanted])
    *lines, last = capsys.readouterr().out.splitlines()
    steps = {line.split(": ")[0]: int(line.split()[1]) for line in lines}
    assert steps["vggt/static/base/seed1"] == steps["vggt/static/flow-factored/seed0"] == 500
    assert steps["sweep/vggt/flow-factored/0.3/seed0"] == 150  # in `dynamic`, whose base it takes
    assert steps["vggt/dynamic/base/seed0"] == 500 and "vggt/dynamic/base/seed1" not in steps
    places = list(steps)
    assert places.index("matching/seed1") < places.index("vggt/static/base/seed1")
    assert f"{len(steps)} of {len(steps)} jobs to do" in last and f"{sum(steps.values())} steps" in last
    assert not out.exists()
    cli.main(["experiment", "table1", "--dry-run", "-o", str(out), *wanted, "--flow-weight", "1"])
    assert "sweep" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--arms", "flow-magic"], "table4 has no flow-magic; expected some of 3d-sup, base, flow-factored"),
        (["--regimes", "static"], "table4 has no static; expected some of dynamic"),
        (["--processes", "0"], "--processes 0: expected at least 1"),
        (["--flow-weight", "-1"], "--flow-weight -1: expected more than 0"),
        (["--dry-run", "--report"], "choose one"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_one(flags: list[str], said: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["experiment", "table4", "-o", str(tmp_path / "out"), *flags])
    errors = capsys.readouterr().err
    assert ended.value.code == 1 and errors.startswith("flow3r: ") and errors.count("\n") == 1 and said in errors
    assert not (tmp_path / "out").exists()


def test_every_flag_is_explained_in_the_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.main(["experiment", "--help"])
    printed = " ".join(re.sub("[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    for parameter in inspect.signature(experiment).parameters:
        (explained,) = re.findall(rf"^ +{parameter}: (.*)$", experiment.__doc__, flags=re.M)
        assert explained in printed, parameter
