"""One call that writes a reconstruction in every format that other programs read."""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flow3r.data.arrays import FrameSource
from flow3r.errors import InputError
from flow3r.export import manifest
from flow3r.export.arrays import save_arrays
from flow3r.export.colmap import write_colmap
from flow3r.export.glb import write_glb
from flow3r.export.html import write_html
from flow3r.export.images import write_images
from flow3r.export.nerfstudio import write_nerfstudio
from flow3r.export.ply import write_ply
from flow3r.export.points import Points, check_choice, select_points
from flow3r.export.tum import write_tum
from flow3r.files import write_json
from flow3r.types import Reconstruction

# What each format puts into the output folder; its first entry is the one to open.
ENTRIES = {
    "npz": ("reconstruction.npz",),
    "ply": ("scene.ply",),
    "glb": ("scene.glb",),
    "colmap": ("sparse", "images"),
    "tum": ("trajectory.tum",),
    "nerfstudio": ("transforms.json", "images", "scene.ply"),
    "html": ("viewer.html",),
}
FORMATS = tuple(ENTRIES)
STAGING = ".tmp-reconstruction"
COLMAP_POINTS = 100_000  # ours: text of about 8 MB; splatting thins its seed points further


def write_reconstruction(
    reconstruction: Reconstruction,
    out: str | Path,
    formats: str | Iterable[str] = FORMATS,
    *,
    source: FrameSource | None = None,
    min_confidence: float = 0.0,
    confidence_percentile: float = 0.0,
    max_points: int = 500_000,
) -> dict[str, Path]:
    """Write `reconstruction` into the folder `out`; returns the path to open for each format, and for `manifest`.

    `source`: what was reconstructed, or the frames that were used, in order; `colmap` and `nerfstudio` copy them, at
    original size, into images/. Points must reach both the absolute `min_confidence` in [0, 1] and the
    `confidence_percentile` of the valid pixels; at most `max_points` are written (viewer.html and COLMAP have lower
    bounds of their own). Frames are read one at a time: memory holds the points that are written, and little else.
    Nothing appears under its name before all is written, and manifest.json comes last; only files of an earlier export
    are replaced. Raises InputError for an unknown format, a missing or changed source, a file in the place of `out`,
    and foreign files in the place of ours.
    """
    began = time.perf_counter()
    out, chosen = Path(out), _check_formats(formats, source)
    entries = {entry for name in chosen for entry in ENTRIES[name]}
    earlier = _check_folder(out, entries)
    check_choice(min_confidence, confidence_percentile, max_points)
    points = select_points(
        reconstruction,
        min_confidence=min_confidence,
        confidence_percentile=confidence_percentile,
        budget=max_points,
    )
    with _staging(out) as folder:
        written = {}
        for entry, writer in _writers(reconstruction, points, source).items():
            if entry in entries:
                written[entry] = writer(folder / entry)
        record = {
            "min_confidence": min_confidence,
            "confidence_percentile": confidence_percentile,
            "above_thresholds": points.above,
            "written": {entry: count for entry, count in written.items() if count is not None},
        }
        seconds = {"export": time.perf_counter() - began}
        document = manifest.describe(reconstruction, record, folder, earlier, seconds)
        write_json(folder / manifest.NAME, document)
        _publish(folder, out)
    opened = {name: out / ENTRIES[name][0] for name in chosen}
    return {**opened, "manifest": out / manifest.NAME}


def check_export(
    out: str | Path,
    formats: str | Iterable[str] = FORMATS,
    *,
    source: FrameSource | None = None,
    min_confidence: float = 0.0,
    confidence_percentile: float = 0.0,
    max_points: int = 500_000,
) -> None:
    """InputError for what `write_reconstruction` would refuse of these arguments: to ask before a long reconstruction.

    Reads no frame of `source`, and writes nothing.
    """
    chosen = _check_formats(formats, source)
    _check_folder(Path(out), {entry for name in chosen for entry in ENTRIES[name]})
    check_choice(min_confidence, confidence_percentile, max_points)


def _writers(
    reconstruction: Reconstruction, points: Points, source: FrameSource | None
) -> dict[str, Callable[[Path], int | None]]:
    """For every entry of an output folder what writes it, and returns its number of points if it has any."""
    return {
        "reconstruction.npz": lambda path: save_arrays(reconstruction, path),
        "scene.ply": lambda path: write_ply(points, path),
        "scene.glb": lambda path: write_glb(reconstruction, points, path),
        "sparse": lambda path: write_colmap(reconstruction, points.at_most(COLMAP_POINTS), path / "0"),
        "images": lambda path: write_images(reconstruction, source, path),
        "trajectory.tum": lambda path: write_tum(reconstruction, path),
        "transforms.json": lambda path: write_nerfstudio(reconstruction, path, images="images", ply="scene.ply"),
        "viewer.html": lambda path: write_html(reconstruction, points, path),
    }


def _check_formats(formats: str | Iterable[str], source: FrameSource | None) -> list[str]:
    names = formats.split(",") if isinstance(formats, str) else list(formats)
    unknown = [name for name in names if name not in ENTRIES]
    if unknown or not names:
        raise InputError(
            f"unknown format {', '.join(unknown) or '(none given)'}; expected some of {', '.join(FORMATS)}"
        )
    with_images = [name for name in names if "images" in ENTRIES[name]]
    if with_images and source is None:
        others = ",".join(name for name in FORMATS if "images" not in ENTRIES[name])
        raise InputError(f"{', '.join(with_images)} need the original images: pass source=, or formats={others!r}")
    return [name for name in FORMATS if name in names]


def _check_folder(out: Path, entries: set[str]) -> dict[str, dict]:
    """The manifest's records of files that earlier exports left in `out`: only they may be replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; expected a folder to write into, existing or not")
    earlier = manifest.earlier_files(out, out / STAGING)
    owned = {name.split("/")[0] for name in earlier}
    foreign = sorted(entry for entry in entries - owned if (out / entry).exists())
    if foreign:
        raise InputError(
            f"{out}: holds {', '.join(foreign)} that flow3r did not write; choose another folder, or move them away"
        )
    return {name: record for name, record in earlier.items() if (out / name).is_file()}


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder inside `out`, on the same file system, that is gone at the end; a killed run's is cleared first."""
    folder = out / STAGING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path) -> None:
    """Move everything into `out`, the manifest last: until then it tells the next run what a killed one has moved."""
    entries = sorted(path.name for path in folder.iterdir() if path.name != manifest.NAME)
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    for entry in [*entries, manifest.NAME]:
        if (out / entry).is_dir():  # a folder can only be renamed onto an empty one
            os.replace(out / entry, folder / f"replaced-{entry}")
        os.replace(folder / entry, out / entry)
