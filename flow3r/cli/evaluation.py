"""Commands that measure: eval worlds, folder, motorcycle, manifest, run, check, selftest; reproduce."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from rich.markup import escape
from tyro.conf import Positional, arg, subcommand

from flow3r.cli.command import PRINT, loads_weights, refuse_file
from flow3r.errors import InputError

Where = Literal["here", "processes", "ray"]


@loads_weights
def worlds(
    model: str = "nano", out: Annotated[Path | None, arg(aliases=["-o"])] = None, scenes: int = 64, views: int = 4
) -> None:
    """A model on held-out procedural worlds, beside trivial rows: identity pose, mean training pose, ground truth.

    Args:
        model: Name, file or hub id of the model.
        out: JSON file for every sequence's values.
        scenes: Number of worlds.
        views: Views of a world.
    """
    from flow3r.eval.scenes import evaluate_worlds
    from flow3r.model.checkpoints import load_model

    _refuse_none(scenes=scenes, views=views)
    _print_report(evaluate_worlds(load_model(model), scenes=scenes, views=views, name=model), out)


@loads_weights
def folder(
    path: Positional[Path],
    model: str = "nano",
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    frames: int = 8,
) -> None:
    """A model on a folder of images with cameras.json, beside the trivial rows.

    Args:
        path: The folder.
        model: Name, file or hub id of the model.
        out: JSON file for every sequence's values.
        frames: Frames of the folder, evenly spread.
    """
    from flow3r.eval.scenes import evaluate_folder
    from flow3r.model.checkpoints import load_model

    _refuse_none(frames=frames)
    network = load_model(model)
    _print_report(evaluate_folder(network, path, frames=frames, tokens=network.config.tokens, name=model), out)


@loads_weights
def motorcycle(model: str = "nano", out: Annotated[Path | None, arg(aliases=["-o"])] = None) -> None:
    """A model on scikit-image's stereo pair, beside the trivial rows.

    Args:
        model: Name, file or hub id of the model.
        out: JSON file for the values.
    """
    from flow3r.eval.scenes import evaluate_motorcycle
    from flow3r.model.checkpoints import load_model

    network = load_model(model)
    _print_report(evaluate_motorcycle(network, tokens=network.config.tokens, name=model), out)


def manifest(
    root: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])],
    benchmarks: str = "paper",
    draws: int = 5,
) -> None:
    """Fix which frames of the data at hand are measured, and print the sha256 of each list.

    Sequences that are not there are left out on purpose: `flow3r eval run` then does not miss them.

    Args:
        root: Folder that holds a folder for each dataset (flow3r data list).
        out: Folder of the run; its `manifests` are written.
        benchmarks: Names separated by commas, or `paper`, `ablation`, `pi3`, `all`: those whose data are there.
        draws: Of each sequence; the first is the headline, all feed the intervals.
    """
    from flow3r.eval.benchmarks import find_benchmark
    from flow3r.eval.run import benchmarks_called, fix_manifest, manifest_path

    refuse_file(out)
    _refuse_none(draws=draws)
    found = {name: find_benchmark(name).select(root) for name in benchmarks_called(benchmarks, root)}
    for name, selection in found.items():
        made = fix_manifest(find_benchmark(name), selection, out, draws)
        PRINT.print(f"{made.sha256}  {manifest_path(out, name)}: {len(made.draws)} draws", soft_wrap=True)
        for sequence, reason in made.skipped.items():
            PRINT.print(escape(f"  left out: {sequence}: {reason}"), soft_wrap=True)


@loads_weights
def run(
    root: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])],
    methods: str = "nano,identity",
    benchmarks: str = "paper",
    stages: str = "predict,score,report",
    draws: int = 5,
    profile: Literal["flow3r", "pi3"] | None = None,
    budget: int | None = None,
    where: Where = "here",
    workers: int = 2,
    gpus: float = 0.0,
    device: str | None = None,
    pictures: bool = True,
) -> None:
    """Measure methods on benchmarks: predict, score, report. What is done already is not done again.

    samples:NAME is a method of another program, which has written OUT/samples/NAME (docs/evaluation.md). The exit code
    is 1 if a sample failed, which then has the worst scores, or if sequences are missing.

    Args:
        root: Folder that holds a folder for each dataset (flow3r data list).
        out: Folder of the run: manifests, samples, scores, report.
        methods: Separated by commas: models by name, file or hub id, NAME=FILE, `classical`, `identity`, samples:NAME.
        benchmarks: Names separated by commas, or `paper`, `ablation`, `pi3`, `all`: those whose data are there.
        stages: Some of predict, score, report, separated by commas.
        draws: Of each sequence, when the run's manifests are first made.
        profile: Score points by the definitions of this profile instead of each benchmark's own, into files of its own.
        budget: Points of each cloud whose nearest neighbours are sought; by default all.
        where: Predict in this process, in others, or on Ray, where samples are scored too.
        workers: Processes that predict (not with `here`), and as many that score.
        gpus: GPUs of a task on Ray.
        device: cpu, cuda, ...; by default CUDA where there is one.
        pictures: Write the page with pictures as well.
    """
    from flow3r.eval.run import STAGES, Run, benchmarks_called, methods_called

    wanted = _chosen(stages, STAGES)
    predicting, scoring = "predict" in wanted, "score" in wanted
    measured = Run(
        root,
        out,
        methods_called(methods),
        benchmarks_called(benchmarks, root) if predicting or scoring else (),
        draws=draws,
        profile=profile,
        budget=budget,
        where=where,
        workers=workers,
        gpus=gpus,
        device=device,
        pictures=pictures,
    )
    failures = missing = 0
    for line in measured.measure(predicting, scoring) if predicting or scoring else ():
        PRINT.print(escape(line.text), soft_wrap=True)
        failures, missing = failures + line.failures, missing + line.missing
    for path in measured.report() if "report" in wanted else ():
        PRINT.print(f"  {path}", soft_wrap=True)
    wrong = [f"{failures} samples failed and have the worst scores"] if failures else []
    wrong += [f"{missing} sequences are missing"] if missing else []
    if wrong:
        print(f"flow3r: {'; '.join(wrong)}, see above", file=sys.stderr)
        sys.exit(1)


def check(files: Positional[tuple[Path, ...]]) -> None:
    """Whether samples that another program wrote keep the contract (docs/evaluation.md).

    Args:
        files: .npz files, or folders of them.
    """
    from flow3r.eval.samples import read_sample

    found = [file for path in files for file in (sorted(path.rglob("*.npz")) if path.is_dir() else [path])]
    if not found:
        raise InputError("no .npz file given; expected files, or folders that hold some")
    wrong = 0
    for file in found:
        try:
            sample = read_sample(file)
        except InputError as error:
            wrong += 1
            PRINT.print(f"[red]fail[/] {escape(str(error))}", soft_wrap=True)
        else:
            height, width = sample.size
            PRINT.print(f"[green]pass[/] {escape(str(file))}: {len(sample.frames)} views of {width} x {height}")
    if wrong:
        print(f"flow3r: {wrong} of {len(found)} files do not keep the contract, see above", file=sys.stderr)
        sys.exit(1)


def selftest(
    root: Positional[Path | None] = None,
    benchmarks: str = "all",
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
) -> None:
    """Whether the evaluation can be trusted: ground truth scores perfect, planted faults lower the right measures.

    Args:
        root: Folder that holds a folder for each dataset, to test with its data; by default procedural worlds.
        benchmarks: Of those with data there: names separated by commas, or `paper`, `ablation`, `pi3`, `all`.
        out: Folder to keep the samples and scores in.
    """
    from flow3r.eval.benchmarks import find_benchmark
    from flow3r.eval.run import benchmarks_called
    from flow3r.eval.selftest import selftest as test

    chosen = () if root is None else [find_benchmark(name) for name in benchmarks_called(benchmarks, root)]
    wrong = 0
    for found in test(root, chosen, out):
        wrong += not found.passed
        mark = "[green]pass[/]" if found.passed else "[red]fail[/]"
        PRINT.print(f"{mark} {escape(found.text)}", soft_wrap=True)
    if wrong:
        print(f"flow3r: {wrong} checks failed, see above", file=sys.stderr)
        sys.exit(1)


@loads_weights
def reproduce(
    what: Positional[Literal["paper"]],
    root: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])],
    scale: float = 1.0,
    teacher: str = "ufm",
    stages: str = "label,train,evaluate",
    beside: str = "classical,identity",
    workers: int = 2,
    device: str | None = None,
) -> None:
    """The paper from raw data to its tables: label, train every run, predict, score, report. Restartable.

    Args:
        what: The paper: all runs of its tables, on all of its datasets and benchmarks.
        root: Folder that holds a folder for each dataset (flow3r data list).
        out: Folder for labels, runs, samples, scores and the report.
        scale: 1 is the paper. Less takes that share of all steps and sequences, with toy models below 0.01.
        teacher: Name of the teacher of flow (flow3r label).
        stages: Some of label, train, evaluate.
        beside: Rows that the paper has not: some of classical, identity.
        workers: Processes that score.
        device: cpu, cuda, ...; by default CUDA where there is one.
    """
    from flow3r.eval.tables import paper_sheets
    from flow3r.eval.tables.typeset import console
    from flow3r.reproduce import STAGES, Paper
    from flow3r.teacher.runners import rank_and_world

    wanted = _chosen(stages, STAGES)
    if not 0 < scale <= 1:
        raise InputError(f"--scale {scale:g}: expected more than 0 and at most 1")
    refuse_file(out)
    if wanted != ["train"] and rank_and_world()[1] > 1:
        raise InputError(f"--stages {stages} in {rank_and_world()[1]} processes: only --stages train is for several")
    rows = tuple(filter(None, beside.split(",")))
    paper = Paper(root, out, scale, teacher, device, rows)
    for stage, work in (("label", paper.label), ("train", paper.train)):
        for line in work() if stage in wanted else ():
            PRINT.print(escape(line), soft_wrap=True)
    failures = 0
    for line in paper.evaluate(workers) if "evaluate" in wanted else ():
        PRINT.print(escape(line.text), soft_wrap=True)
        failures += line.failures
    for page in paper_sheets(paper.results()) if "evaluate" in wanted else ():
        PRINT.print(*console(page), sep="\n")
    if failures:
        print(f"flow3r: {failures} samples or benchmarks failed, see above", file=sys.stderr)
        sys.exit(1)


def _refuse_none(**counts: int) -> None:
    """Raises InputError for flags that leave nothing to be measured."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"--{name} {count}: expected at least 1")


def _chosen(stages: str, known: Sequence[str]) -> tuple[str, ...]:
    """The stages that a flag names."""
    wanted = tuple(filter(None, (part.strip() for part in stages.split(","))))
    unknown = [stage for stage in wanted if stage not in known]
    if unknown or not wanted:
        raise InputError(f"--stages {','.join(unknown)}: expected some of {', '.join(known)}")
    return wanted


def _print_report(report: Any, out: Path | None) -> None:
    from flow3r.eval.report import table, write_report

    PRINT.print(table(report))
    if out is not None:
        write_report(out, report)


COMMANDS = {
    "worlds": worlds,
    "folder": folder,
    "motorcycle": motorcycle,
    "manifest": manifest,
    "run": run,
    "check": check,
    "selftest": selftest,
}
# As tyro.extras.subcommand_cli_from_dict has it: choosing a command is calling it.
Command = Union[tuple(Annotated[Any, subcommand(name=name, constructor=run)] for name, run in COMMANDS.items())]  # noqa: UP007


def evaluate(command: Annotated[Command, arg(name="")]) -> None:
    """Measure: worlds, folder, motorcycle; manifest, run, check, selftest for the paper's benchmarks."""
