"""What a folder holds: its dataset, counts, what is left out and why, and a contact sheet to look at."""

import base64
import html
import io
import random
from collections import Counter
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.data.catalogue import DATASETS, find_dataset, recognise
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.packed import PACKED, described
from flow3r.data.frame import Frame, Sequence
from flow3r.data.transforms import fit_depth, fit_intrinsics, resize_image
from flow3r.draw import colourise_depth, nearest_points, paint, to_bytes
from flow3r.errors import InputError
from flow3r.files import is_url, write_text
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_points

WIDTH = 280  # pixels of a picture of the sheet
TILE = 20  # pixels: tiles of the overlay, by turns the image and the points drawn into it
JPEG_QUALITY = 88

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 2px 1.2em 2px 0; vertical-align: top; }
h2 { margin: 1.6em 0 .3em; font-size: 1.1em; }
figure { display: inline-block; margin: 0 6px 8px 0; max-width: 280px; vertical-align: top; }
figure img { display: block; }
figcaption { font-size: 12px; color: #555; overflow-wrap: anywhere; }
.wrong { color: #a00; }
"""


@dataclass(frozen=True)
class Inventory:
    """What there is of a dataset below a folder. Frames, and what is wrong, are of the first `opened` sequences."""

    dataset: Dataset
    root: str
    sequences: int
    opened: int
    frames: int
    left_out: Counter[str]  # frames, by reason
    unreadable: dict[str, str]  # sequences, and why

    def lines(self) -> list[str]:
        """For people."""
        of = "" if self.opened == self.sequences else f" in the first {self.opened} of them"
        labels = say_labels(self.dataset.labels, self.dataset.scale)
        lines = [f"{self.dataset.title} ({self.dataset.name}), {labels}"]
        lines += [f"{self.sequences} sequences, {self.frames} frames{of}"]
        lines += [f"left out: {count} frames, {reason}" for reason, count in self.left_out.most_common()]
        lines += [f"unreadable: {name}: {reason}" for name, reason in self.unreadable.items()]
        cite = f"{self.dataset.citation} {self.dataset.url}".strip()
        return [*lines, f"licence: {self.dataset.licence}", *([f"cite: {cite}"] if cite else ())]


def dataset_of(root: Path | str, name: str | None = None) -> Dataset:
    """The dataset of that name, or else the one whose layout the folder has; of packed sequences, with their facts.

    Raises InputError where several have it, or none, and says which, or what the folder holds.
    """
    found = find_dataset(name) if name is not None else PACKED if is_url(root) else _recognised(Path(root))
    return described(root) if found is PACKED else found


def _recognised(root: Path) -> Dataset:
    found = [dataset for dataset in recognise(root) if _opens(dataset, root)]
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise InputError(f"{root}: may be any of {names}; say which one with --dataset")
    if found:
        return found[0]
    videos = DATASETS["videos"]
    try:
        videos.sequences(root)
    except InputError as error:
        raise InputError(
            f"{root}: no dataset has this layout ({error}); flow3r data list says what they hold"
        ) from error
    return videos


def _opens(dataset: Dataset, root: Path) -> bool:
    """Whether one of its first sequences has frames: folders alone may look like those of another dataset."""
    for sequence in dataset.sequences(root)[:3]:
        try:
            if len(sequence):
                return True
        except (InputError, OSError):
            continue
    return False


def take_inventory(dataset: Dataset, root: Path | str, most: int = 200) -> Inventory:
    """Count sequences, and frames in the first `most` of them. Raises InputError if the folder has nothing of it."""
    found = dataset.sequences(root)
    frames, left_out, unreadable = 0, Counter(), {}
    for sequence in found[:most]:
        try:
            frames += len(sequence)
            left_out.update(getattr(sequence, "left_out", {}))
        except (InputError, OSError) as error:
            unreadable[sequence.name] = str(error)
    return Inventory(dataset, str(root), len(found), min(most, len(found)), frames, left_out, unreadable)


def contact_sheet(
    inventory: Inventory, root: Path | str, out: Path, sequences: int = 6, frames: int = 4, seed: int = 0
) -> None:
    """Write an HTML page that needs no other file: of some sequences frames, their depth, and points drawn into others.

    The overlay shows, in a chequer with each image, the points of the frame before it as the labels put them there:
    where labels are right, edges go on from tile to tile.
    """
    found = inventory.dataset.sequences(root)
    chosen = sorted(random.Random(seed).sample(range(len(found)), min(sequences, len(found))))
    parts = [_section(found[number], frames) for number in chosen]
    rows = "".join(f"<tr><td>{html.escape(line)}</td></tr>" for line in inventory.lines())
    title = html.escape(f"{inventory.dataset.title}: {inventory.root}")
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    write_text(out, f"{page}<h1>{title}</h1><table>{rows}</table>{''.join(parts)}</html>\n")


def _section(sequence: Sequence, count: int) -> str:
    heading = html.escape(sequence.name)
    try:
        numbers = neighbours(len(sequence), count)
        shown = [_thumbnail(frame) for frame in sequence.frames(numbers)]
        heading += f" <small>{len(sequence)} frames</small>"
    except (InputError, OSError) as error:
        return f'<h2>{heading}</h2><p class="wrong">{html.escape(str(error))}</p>'
    rows = [[_figure(torch.from_numpy(f.image).movedim(-1, 0) / 255, f"{n}: {f.name}") for n, f in zip(numbers, shown)]]
    if any(frame.depth is not None for frame in shown):
        rows.append([_depth_figure(frame) for frame in shown])
    rows.append(
        [
            _figure(overlay(source, target), f"points of frame {a} drawn into frame {b}")
            for a, b, source, target in zip(numbers, numbers[1:], shown, shown[1:])
            if _is_posed(source) and target.world_from_camera is not None and target.intrinsics is not None
        ]
    )
    return f"<h2>{heading}</h2>" + "".join(f"<div>{''.join(row)}</div>" for row in rows)


def neighbours(length: int, count: int) -> list[int]:
    """Frames near the middle, so far apart that a video moves between them: a fiftieth of its length, 10 at most."""
    step = min(max(1, length // 50), 10)
    reach = min(count, length)
    start = max(0, min(length // 2, length - 1 - step * (reach - 1)))
    return [number for k in range(reach) if (number := start + step * k) < length]


def overlay(source: Frame, target: Frame) -> Float[Tensor, "3 H W"]:
    """The target's image, and in every second tile the source's points as the target sees them."""
    depth, intrinsics = torch.from_numpy(source.depth), torch.from_numpy(source.intrinsics).float()
    points = transform_points(
        torch.from_numpy(source.world_from_camera).float(), unproject(depth, intrinsics).flatten(0, 1)
    )
    colours = torch.from_numpy(source.image).flatten(0, 1) / 255
    known = depth.flatten() > 0
    camera = torch.from_numpy(target.world_from_camera).float(), torch.from_numpy(target.intrinsics).float()
    size = target.image.shape[:2]
    nearest = nearest_points(points[known], *camera, size, side=3.0)
    drawn = paint(nearest, colours[known])
    y, x = torch.meshgrid(torch.arange(size[0]) // TILE, torch.arange(size[1]) // TILE, indexing="ij")
    image = torch.from_numpy(target.image).movedim(-1, 0) / 255
    return torch.where((nearest >= 0) & ((x + y) % 2 == 0), drawn, image)


def _thumbnail(frame: Frame) -> Frame:
    height, width = frame.image.shape[:2]
    size = (max(1, round(height * WIDTH / width)), WIDTH)
    affine = np.diag([size[1] / width, size[0] / height, 1.0])
    return Frame(
        resize_image(frame.image, size),
        frame.timestamp,
        frame.name,
        None if frame.depth is None else fit_depth(frame.depth, affine, size).astype(np.float32),
        None if frame.intrinsics is None else fit_intrinsics(frame.intrinsics, affine),
        frame.world_from_camera,
    )


def _is_posed(frame: Frame) -> bool:
    return frame.depth is not None and frame.intrinsics is not None and frame.world_from_camera is not None


def _depth_figure(frame: Frame) -> str:
    if frame.depth is None:
        return _figure(torch.zeros(3, *frame.image.shape[:2]), "no depth")
    known = frame.depth[frame.depth > 0]
    said = f"depth {np.quantile(known, 0.02):.3g} to {np.quantile(known, 0.98):.3g}" if len(known) else "no depth"
    return _figure(colourise_depth(torch.from_numpy(frame.depth)), f"{said}, known in {(frame.depth > 0).mean():.0%}")


def _figure(picture: Float[Tensor, "3 H W"], caption: str) -> str:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(to_bytes(picture).numpy()).save(stored, format="JPEG", quality=JPEG_QUALITY)
    data = base64.b64encode(stored.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def say_labels(labels: str, scale: str) -> str:
    """For people: what is labelled, and at which scale, where anything is."""
    return "labels: none" if labels == "none" else f"labels: {labels}, {scale} scale"


def catalogue_rows(datasets: List[Dataset] | None = None) -> list[dict[str, str | bool]]:
    """What is said of each dataset, for a table."""
    facts = ("name", "title", "labels", "scale", "rigid", "dense", "licence", "citation", "url", "layout")
    return [{fact: getattr(dataset, fact) for fact in facts} for dataset in datasets or DATASETS.values()]
