"""A table from nothing to its results: which jobs it takes, what they cost, and all of them done."""

from collections.abc import Callable, Collection, Iterator, Sequence

from flow3r.experiment.pool import in_order, work
from flow3r.experiment.runs import Run, Trivial, write_sweep
from flow3r.experiment.stages import Experiment, Job
from flow3r.experiment.tables import parts_of


def jobs_of(
    experiment: Experiment,
    table: str,
    *,
    seeds: Sequence[int] = (),
    arms: Collection[str] = (),
    regimes: Collection[str] = (),
) -> list[Job]:
    """All that a table takes, in an order in which each finds what it needs: of the schedule's seeds, and of all arms
    and regimes, unless some are named. Raises InputError for a name that the table does not have."""
    parts = list(parts_of(table, arms, regimes))
    runs = [
        Run(part.family, part.regime, arm, seed)
        for part in parts
        for arm in part.arms
        for seed in seeds or experiment.schedule.seeds
    ]
    trivial = [Trivial(part.family, part.regime) for part in parts]
    return in_order(experiment, (*runs, *trivial))


def forecast(experiment: Experiment, jobs: Sequence[Job], processes: int) -> Iterator[str]:
    """A line for each job that is not done, and for all of them: steps and expected time."""
    left = [job for job in jobs if not job.is_done(experiment)]
    costs = [seconds_of(experiment, job) for job in left]
    for job, seconds in zip(left, costs, strict=True):
        yield f"{job.key}: {job.steps(experiment)} steps, about {seconds / 60:.1f} min"
    runs = sum(isinstance(job, Run) for job in left)
    total = sum(costs)
    yield (
        f"{len(left)} of {len(jobs)} jobs to do, {runs} of them runs; {sum(job.steps(experiment) for job in left)} "
        f"steps, about {total / 60:.0f} min of one process, {total / 60 / processes:.0f} min of {processes}"
    )


def seconds_of(experiment: Experiment, job: Job) -> float:
    """What the schedule expects; worlds that are rendered once are not in it."""
    schedule = experiment.schedule
    scoring = schedule.seconds_to_score * (0.2 if isinstance(job, Run) and job.tried else 1.0)
    measures = isinstance(job, Run | Trivial)
    return job.steps(experiment) * schedule.seconds_per_step + (scoring if measures else 0.0)


def carry_out(
    experiment: Experiment, jobs: Sequence[Job], processes: int, tell: Callable[[str], None]
) -> dict[str, str]:
    """Do all jobs that are not done, as `work` does; the sweep's file is written whenever it ends."""
    try:
        return work(experiment, jobs, processes, tell)
    finally:
        if (experiment.folder / "sweep").is_dir():
            write_sweep(experiment)
