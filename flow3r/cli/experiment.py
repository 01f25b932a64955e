"""The command that runs the paper's controlled experiments: a table from nothing to its results."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from rich.markup import escape
from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, refuse_file
from flow3r.errors import InputError

Table = Literal["table1", "table4", "table5", "table6", "table7", "limits", "real"]


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
    videos: Path | None = None,
    sequences: Path | None = None,
    labels: Path | None = None,
) -> None:
    """A table of the paper on procedural worlds: all runs that it takes, then what they say of the paper's claims.

    Restartable: what is finished is not done again, what was stopped goes on. Several such commands may share a folder.
    The exit code is 1 if a job failed, and 130 after SIGTERM or ctrl-C; a run that diverged is a result.

    Args:
        table: A table of the paper (docs/experiments.md); `limits`: its two stated limitations, measured; `real`: the
            comparison with real clips as the unlabelled domain.
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
        videos: Of `real`: a folder of clips, of which those that share a scene with a test never teach.
        sequences: Of `real`: a folder of posed folders to test on (cameras.json, docs/data.md).
        labels: Of `real`: where the clips' labels are kept; by default `real` in the folder of results.
    """
    from flow3r.experiment.chain import carry_out, forecast, jobs_of
    from flow3r.experiment.real_video import Footage, real_jobs, said_of_footage
    from flow3r.experiment.schedule import SCHEDULES
    from flow3r.experiment.stages import Experiment

    refuse_file(out)
    _check_footage(table, videos, sequences, regimes)
    if processes < 1:
        raise InputError(f"--processes {processes}: expected at least 1")
    if flow_weight is not None and not flow_weight > 0:
        raise InputError(f"--flow-weight {flow_weight:g}: expected more than 0")
    if dry_run and report:
        raise InputError("--dry-run with --report: one says what would be run, the other what was; choose one")
    chosen = SCHEDULES[schedule]
    settings = Experiment(out, chosen, device or chosen.device, flow_weight)
    if table == "real":
        footage = Footage(videos.resolve(), sequences.resolve(), (labels or out / "real").resolve())
        jobs = real_jobs(settings, footage, seeds=seeds, arms=arms)
        _say("\n".join(said_of_footage(footage)))
    else:
        jobs = jobs_of(settings, table, seeds=seeds, arms=arms, regimes=regimes)
    if dry_run:
        PRINT.print(escape("\n".join(forecast(settings, jobs, processes))), soft_wrap=True)
        return
    try:
        failed = {} if report else carry_out(settings, jobs, processes, _say)
    except KeyboardInterrupt as stopped:
        print(f"flow3r: {stopped}", file=sys.stderr)
        sys.exit(130)
    _report(table, out, docs or settings.folder / "report", schedule)
    if failed:
        said = f"{len(failed)} of {len(jobs)} jobs failed, see above; the same command tries them again"
        print(f"flow3r: {said}", file=sys.stderr)
        sys.exit(1)


def _say(text: str) -> None:
    PRINT.print(escape(text), soft_wrap=True)


def _check_footage(table: str, videos: Path | None, sequences: Path | None, regimes: tuple[str, ...]) -> None:
    """Raises InputError for `real` without folders, and for another table with some."""
    if table == "real" and (videos is None or sequences is None or regimes):
        raise InputError("real: expected --videos FOLDER and --sequences FOLDER, and no --regimes")
    if table != "real" and not (videos is None and sequences is None):
        raise InputError(f"{table} is of procedural worlds; --videos and --sequences belong to real")


def _report(table: str, out: Path, docs: Path, schedule: str) -> None:
    from flow3r.experiment.real_report import report_real
    from flow3r.experiment.report import report

    written = report_real(out / schedule, docs) if table == "real" else report(table, out, docs, schedule=schedule)
    for path in written:
        PRINT.print(f"  {path}", soft_wrap=True)
