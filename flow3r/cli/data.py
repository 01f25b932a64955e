"""Commands for datasets: data list, data inspect, data validate, data pack, data predecode, data prepare."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import numpy as np
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg, subcommand

from flow3r.cli.command import PRINT, refuse_file
from flow3r.errors import InputError

COLOURS = {"pass": "green", "fail": "red", "unknown": "yellow", "note": "cyan"}


def list_datasets(json_: Annotated[bool, arg(name="json")] = False) -> None:
    """The datasets that there is a reader for, with labels, licence and citation.

    Args:
        json_: Print JSON, with the layout of each.
    """
    from flow3r.data.inspect_dataset import catalogue_rows, say_labels

    rows = catalogue_rows()
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        marks = (key for key in ("rigid", "dense") if row[key] and row["labels"] != "none")
        labels = ", ".join([say_labels(row["labels"], row["scale"]), *marks])
        PRINT.print(f"[bold]{row['name']:<16}[/] {escape(row['title'])}", soft_wrap=True)
        for said in (labels, f"licence: {row['licence']}", f"{row['citation']} {row['url']}".strip()):
            if said:
                PRINT.print(f"{'':<16} {escape(said)}", soft_wrap=True)


def inspect(
    path: Positional[str],
    dataset: str | None = None,
    out: Annotated[Path, arg(aliases=["-o"])] = Path("contact_sheet.html"),
    sequences: int = 6,
    frames: int = 4,
    count: int = 200,
    seed: int = 0,
) -> None:
    """What a folder holds, and a contact sheet of it: images, depth, and points of one frame drawn into the next.

    Args:
        path: Root folder of a dataset, or URL of a packed one.
        dataset: Its name, where the layout does not tell.
        out: HTML file to write; it needs no other file.
        sequences: Number of sequences on the sheet.
        frames: Frames of each.
        count: Most sequences whose frames are counted.
        seed: Which sequences are shown.
    """
    from flow3r.data.inspect_dataset import contact_sheet, dataset_of, take_inventory

    root = _root(path)
    inventory = take_inventory(dataset_of(root, dataset), root, count)
    for line in inventory.lines():
        PRINT.print(escape(line), soft_wrap=True)
    contact_sheet(inventory, root, out, sequences, frames, seed)
    PRINT.print(f"contact sheet: {out}", soft_wrap=True)


def validate(path: Positional[str], dataset: str | None = None, sequences: int = 4, seed: int = 0) -> None:
    """Check the labels of a sample of sequences, and name what is wrong with them; exit code 1 if anything is.

    Poses (handedness, camera-to-world, axes), units of depth against poses, focal length, order of the frames, coverage
    and finiteness of the labels, missing files. The usual wrong conventions are tried, and the one that fits is named.

    Args:
        path: Root folder of a dataset, or URL of a packed one.
        dataset: Its name, where the layout does not tell.
        sequences: Number of sequences to check.
        seed: Which.
    """
    from flow3r.data.inspect_dataset import dataset_of
    from flow3r.data.validate import validate as run

    root = _root(path)
    checks = run(dataset_of(root, dataset), root, sequences, seed)
    table = Table("sequence", "check", "", "found", box=None, pad_edge=False)
    for check in checks:
        status = f"[{COLOURS[check.status]}]{check.status}[/]"
        table.add_row(escape(check.sequence), check.name, status, escape(check.said))
    PRINT.print(table)
    wrong = sum(check.status == "fail" for check in checks)
    if wrong:
        print(f"flow3r: {path}: {wrong} of {len(checks)} checks failed, see above", file=sys.stderr)
        sys.exit(1)


def pack(
    path: Positional[str],
    out: Positional[str],
    dataset: str | None = None,
    sequences: int = 0,
    shard_mb: int = 512,
) -> None:
    """Write sequences to tar shards that WebDataset and the dataset `packed` read: exactly the same frames.

    Args:
        path: Root folder of a dataset.
        out: New folder, or a URL that fsspec knows (s3://..., gs://...).
        dataset: Its name, where the layout does not tell.
        sequences: At most so many, the first ones; 0 for all.
        shard_mb: Size of a shard in megabytes.
    """
    from flow3r.data.inspect_dataset import dataset_of
    from flow3r.data.pack import pack as run

    root = _root(path)
    found = dataset_of(root, dataset)
    every = found.sequences(root)
    chosen, target = every[: sequences or len(every)], out if "://" in out else Path(out)
    summary = run(found, chosen, target, shard_mb * 2**20, found.held_out(root))
    PRINT.print(escape("\n".join(summary.lines())), soft_wrap=True)
    if summary.unreadable:
        raise InputError(f"{len(summary.unreadable)} of {len(every)} sequences could not be packed, see above")


def predecode(store: Positional[str], out: Positional[Path], size_mb: float = 50.0) -> None:
    """Copy a label store for a machine without video libraries, whose torch and numpy alone read the copy.

    The copy is a label store (flow3r train --labels): frames and labels as they were, to the bit. What has no room in
    it is left out, whole segments of shots at a time, and counted.

    Args:
        store: Folder or URL of the label store.
        out: New folder.
        size_mb: Most megabytes of the copy.
    """
    from flow3r.data.predecode import predecode as run

    PRINT.print(escape("\n".join(run(store, out, round(size_mb * 1e6)).lines())), soft_wrap=True)


def prepare(
    kind: Positional[Literal["kinetics", "epic"]],
    path: Positional[Path],
    out: Positional[Path],
    clips: int | None = None,
    least_frames: int | None = None,
    most_frames: int | None = None,
    rate: float | None = None,
    seed: int | None = None,
    results: Path | None = None,
    most_residual: float = 0.01,
) -> None:
    """Make a benchmark of unlabelled clips with MegaSaM: choose and cut clips, write its job; then take the results in.

    The first call draws clips from what is held out of training (without cuts, with a moving camera), cuts their frames
    and writes megasam.sh, to be run where MegaSaM is. The second call, once that has left OUT/results, rejects clips by
    their residual and writes manifest.json, with the hashes of all sources and results.

    Args:
        kind: kinetics (its val and test clips) or epic (the videos of EPIC_100_validation.csv in its root).
        path: Root folder of Kinetics-700 or EPIC-KITCHENS.
        out: Folder to write into.
        clips: Number of clips.
        least_frames: Frames without a cut that a clip must have.
        most_frames: Most frames of a clip.
        rate: Frames a second; by default those of the video, for epic 10.
        seed: Which clips are drawn.
        results: Folder that MegaSaM ran in, instead of OUT/results.
        most_residual: Median reprojection error that is accepted, relative to the long side.
    """
    from flow3r.data.prepare import CLIPS, CURATIONS, RESULTS, SCRIPT, curate, ingest

    refuse_file(out)
    if (out / CLIPS).is_file():
        folder = results or out / RESULTS
        if not folder.is_dir():
            raise InputError(f"{folder}: missing; run {out / SCRIPT} where MegaSaM is, then this command again")
        manifest = ingest(out, folder, most_residual)
        for entry in manifest["rejected"]:
            PRINT.print(escape(f"rejected: {entry['scene']}: {entry['reason']}"), soft_wrap=True)
        accepted = len(manifest["accepted"])
        PRINT.print(f"{accepted} of {accepted + len(manifest['rejected'])} clips accepted: {out / 'manifest.json'}")
        return
    chosen = {"clips": clips, "least_frames": least_frames, "most_frames": most_frames, "rate": rate, "seed": seed}
    curation = replace(CURATIONS[kind], **{key: value for key, value in chosen.items() if value is not None})
    for reason, count in curate(kind, path, out, curation, _shows_little).most_common():
        PRINT.print(f"left out: {count} videos, {reason}")
    PRINT.print(f"now run: MEGASAM=/path/to/mega-sam bash {out / SCRIPT}, and then this command again", soft_wrap=True)


def _shows_little(images: np.ndarray) -> str:
    """Why the frames (N H W 3) of a clip would teach nothing, or an empty string."""
    from flow3r.teacher.filters import FilterSettings, examine

    found = examine(images, FilterSettings())
    if found.still:
        return "the camera hardly moves"
    most = Counter(found.left_out.values()).most_common(1)
    return f"too often: {most[0][0]}" if len(found.left_out) > 0.2 * len(images) else ""


def _root(path: str) -> Path | str:
    """A URL as it is, a local folder as a Path."""
    return path if "://" in path else Path(path)


COMMANDS = {
    "list": list_datasets,
    "inspect": inspect,
    "validate": validate,
    "pack": pack,
    "predecode": predecode,
    "prepare": prepare,
}
# As tyro.extras.subcommand_cli_from_dict has it: choosing a command is calling it.
Command = Union[tuple(Annotated[Any, subcommand(name=name, constructor=run)] for name, run in COMMANDS.items())]  # noqa: UP007


def data(command: Annotated[Command, arg(name="")]) -> None:
    """Datasets: list, inspect, validate, pack, predecode, prepare."""
