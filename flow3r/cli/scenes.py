"""Commands that make and show reconstructions: reconstruct, plan, render."""

import shutil
from pathlib import Path
from typing import Annotated, Literal

from rich.markup import escape
from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, loads_weights
from flow3r.reconstruction.scene import MAX_FRAMES, SHOT

WORK_FOLDER = ".tmp-windows"  # within the output folder, while a long input is reconstructed


@loads_weights
def reconstruct(
    inputs: Positional[tuple[str, ...]],
    out: Annotated[Path, arg(aliases=["-o"])],
    model: str = "nano",
    formats: str = "npz,ply,glb,colmap,tum,nerfstudio,html",
    max_frames: int = MAX_FRAMES,
    shot: str = SHOT,
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
        max_frames: At most this many frames of the shot, evenly spread; 0 for all of them.
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
    from flow3r.data.video import open_source
    from flow3r.export import check_export, write_reconstruction
    from flow3r.reconstruction import reconstruct as run

    source = open_source(inputs)
    choice = {
        "source": source,
        "min_confidence": min_confidence,
        "confidence_percentile": confidence_percentile,
        "max_points": max_points,
    }
    check_export(out, formats, **choice)
    work = out / WORK_FOLDER  # the frames of long inputs, until all is written
    try:
        result = run(
            source,
            model,
            device=device,
            fit=fit,
            max_frames=max_frames or None,
            shot=shot,
            views_per_window=views_per_window,
            overlap=overlap,
            loops=loops,
            memory_gb=memory_gb,
            cache=work,
        )
        written = write_reconstruction(result, out, formats, **choice)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for note in result.notes:
        PRINT.print(escape(note), soft_wrap=True)
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
    max_frames: int = MAX_FRAMES,
    shot: str = SHOT,
    device: str | None = None,
    views_per_window: int | None = None,
    overlap: int | None = None,
    memory_gb: float | None = None,
) -> None:
    """What `flow3r reconstruct` would do with the same flags on this device: frames, windows, memory, time.

    Nothing is run but a few products that measure the device; a video is decoded once, to find its shots.

    Args:
        inputs: A video, an image, a folder, a glob, or several images.
        model: Name of a preset, or name, file or hub id of a model.
        max_frames: At most this many frames of the shot, evenly spread; 0 for all of them.
        shot: Of a video with cuts: "longest", "all" (cuts ignored), or the number of a shot from 1.
        device: cpu, cuda, ...; by default CUDA where there is one.
        views_per_window: Frames that the model sees at once; by default what memory holds, at most 64.
        overlap: Frames that a window shares with the next; by default a quarter.
        memory_gb: Memory for the model and a window, instead of most of what is free.
    """
    from flow3r.data.video import open_source
    from flow3r.reconstruction.forecast import forecast

    lines = forecast(
        open_source(inputs),
        model,
        max_frames=max_frames or None,
        shot=shot,
        device=device,
        views=views_per_window,
        overlap=overlap,
        memory_gb=memory_gb,
    )
    PRINT.print("\n".join(lines))


def render(
    scene: Positional[Path],
    out: Annotated[Path, arg(aliases=["-o"])] = Path("turntable.mp4"),
    seconds: float = 6.0,
    rate: int = 25,
    size: tuple[int, int] = (480, 640),
    degrees: float = 360.0,
    elevation: float = 20.0,
    zoom: float = 1.0,
    up: Literal["x", "y", "z", "-x", "-y", "-z"] | None = None,
    cameras: bool = True,
    min_confidence: float = 0.0,
    confidence_percentile: float = 10.0,
    max_points: int = 500_000,
) -> None:
    """A video that goes round a reconstruction, or round the points of a .ply.

    Args:
        scene: Folder or reconstruction.npz that `flow3r reconstruct` has written, or a .ply.
        out: .mp4, .webm or .gif.
        seconds: Length of the video.
        rate: Frames per second.
        size: Height and width in pixels, even.
        degrees: 360 goes round once; less swings by that angle from side to side.
        elevation: Degrees above the scene's middle.
        zoom: More than 1 goes nearer.
        up: Axis of the world that points up; by default as the cameras were held, for a .ply -y.
        cameras: Draw the cameras.
        min_confidence: Least confidence in [0, 1] of a point.
        confidence_percentile: Share of points, in percent, to leave out, least confident first.
        max_points: Most points to draw.
    """
    from flow3r.export.turntable import render_turntable

    made = render_turntable(
        scene,
        out,
        seconds=seconds,
        rate=rate,
        size=size,
        degrees=degrees,
        elevation=elevation,
        zoom=zoom,
        up=up,
        cameras=cameras,
        min_confidence=min_confidence,
        confidence_percentile=confidence_percentile,
        max_points=max_points,
    )
    PRINT.print(f"{made.path}: {made.frames} frames of {made.points} points")
    if made.encoder == "mpeg4":
        PRINT.print("written as MPEG-4, which some browsers do not play: this PyAV has no H.264 encoder; try .webm")
