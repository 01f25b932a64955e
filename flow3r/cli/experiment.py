"""The command that runs the paper's controlled experiments: a table from nothing to its results."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from rich.markup import escape
from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, refuse_file
from flow3r.errors import InputError

Table = Literal["table1", "table4", "table5", "table6", "table7", "limits"]


def experiment(
    table: Positional[Table],
    schedule: Literal["cpu", "cuda", "toy"] = "cpu",
    out: Annotated[Path, arg(aliases=["-o"])] = Path("runs/experiments"),
    docs: Path | None = None,
    seeds: tuple[int, ...] = (),
    arms: tuple[str, ...] = (),
    regimes: tuple[str, ...] = (),
    flow_weight: float | None = None,
    processes: int = 2,
    device: str | None = None,
    dry_run: bool = False,
    report: bool = False,
) -> None:
    """A table of the paper on procedural worlds: all runs that it takes, then what they say of the paper's claims.

    Restartable: what is finished is not done again, what was stopped goes on. Several such commands may share a folder.
    The exit code is 1 if a job failed; a run that diverged is a result.

    Args:
        table: A table of the paper (docs/experiments.md), or `limits`: its two stated limitations, measured.
        schedule: Sizes of all runs: for two CPU cores, for a CUDA device, or of a toy that takes seconds.
        out: Folder for worlds, runs and results.
        docs: Folder for the report's page, tables and plots; by default `report` in the folder of the schedule.
        seeds: Of the chains; by default the schedule's.
        arms: Some of the table's; by default all.
        regimes: Some of the table's; by default all.
        flow_weight: Of the flow loss of all arms, in place of the weights that a sweep chooses.
        processes: Jobs that are done at a time, with one thread each.
        device: cpu, cuda, ...; by default that of the schedule.
        dry_run: Print what would be run, with steps and expected time, and run nothing.
        report: Run nothing; write the tables and plots of what is there.
    """
    from flow3r.experiment.chain import carry_out, forecast, jobs_of
    from flow3r.experiment.schedule import SCHEDULES
    from flow3r.experiment.stages import Experiment

    refuse_file(out)
    if processes < 1:
        raise InputError(f"--processes {processes}: expected at least 1")
    if flow_weight is not None and not flow_weight > 0:
        raise InputError(f"--flow-weight {flow_weight:g}: expected more than 0")
    if dry_run and report:
        raise InputError("--dry-run with --report: one says what would be run, the other what was; choose one")
    chosen = SCHEDULES[schedule]
    settings = Experiment(out, chosen, device or chosen.device, flow_weight)
    jobs = jobs_of(settings, table, seeds=seeds, arms=arms, regimes=regimes)
    if dry_run:
        PRINT.print(escape("\n".join(forecast(settings, jobs, processes))), soft_wrap=True)
        return
    failed = {} if report else carry_out(settings, jobs, processes, _say)
    _report(table, out, docs or settings.folder / "report", schedule)
    if failed:
        said = f"{len(failed)} of {len(jobs)} jobs failed, see above; the same command tries them again"
        print(f"flow3r: {said}", file=sys.stderr)
        sys.exit(1)


def _say(text: str) -> None:
    PRINT.print(escape(text), soft_wrap=True)


def _report(table: str, out: Path, docs: Path, schedule: str) -> None:
    from flow3r.experiment.report import report

    for path in report(table, out, docs, schedule=schedule):
        PRINT.print(f"  {path}", soft_wrap=True)
