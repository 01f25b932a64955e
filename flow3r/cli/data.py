"""Commands for datasets: data list, data inspect, data validate, data pack, data prepare."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Union

from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg, subcommand

from flow3r.cli.command import PRINT
from flow3r.errors import InputError

COLOURS = {"pass": "green", "fail": "red", "unknown": "yellow", "note": "cyan"}


def list_datasets(json_: Annotated[bool, arg(name="json")] = False) -> None:
    """The datasets that there is a reader for, with labels, licence and citation.

    Args:
        json_: Print JSON, with the layout of each.
    """
    from flow3r.data.inspect_dataset import catalogue_rows

    rows = catalogue_rows()
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        marks = ", ".join(key for key in ("rigid", "dense") if row[key])
        labels = f"labels: {row['labels']}, {row['scale']} scale" + (f", {marks}" if marks else "")
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
    summary = run(found, every[: sequences or len(every)], out if "://" in out else Path(out), shard_mb * 2**20)
    PRINT.print(escape("\n".join(summary.lines())), soft_wrap=True)
    if summary.unreadable:
        raise InputError(f"{len(summary.unreadable)} of {len(every)} sequences could not be packed, see above")


def _root(path: str) -> Path | str:
    """A URL as it is, a local folder as a Path."""
    return path if "://" in path else Path(path)


COMMANDS = {"list": list_datasets, "inspect": inspect, "validate": validate, "pack": pack}
# As tyro.extras.subcommand_cli_from_dict has it: choosing a command is calling it.
Command = Union[tuple(Annotated[Any, subcommand(name=name, constructor=run)] for name, run in COMMANDS.items())]  # noqa: UP007


def data(command: Annotated[Command, arg(name="")]) -> None:
    """Datasets: list, inspect, validate, pack, prepare."""
