"""Procedural worlds: views a second on one core, and a contact sheet of what they look like.

    python -m benchmarks.worlds
    python -m benchmarks.worlds --sheet docs/worlds.png

Images are anti-aliased, depth and identities always made. Seconds are of processor time on one thread, so that other
work on the machine disturbs them little; the wall clock stands beside them.
"""

import argparse
import colorsys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flow3r.data.worlds import Worlds, render_worlds
from flow3r.draw import colourise_depth, colourise_flow, colourise_mask, save_png, sheet

SIZES = (112, 168)  # pixels a side
PAIRS = (0, 2, 4)  # ordered pairs a scene of VIEWS views
VIEWS, SCENES, REPEATS = 4, 16, 3
SHEET_SCENES, SHEET_SIZE, SHEET_COLUMNS = 12, (60, 80), 2
FIRST_SEED = 100


def some_pairs(count: int, scenes: int) -> Tensor | None:
    """The first `count` neighbouring pairs of VIEWS views, there and back."""
    if count == 0:
        return None
    every = [pair for i in range(VIEWS - 1) for pair in ((i, i + 1), (i + 1, i))]
    return torch.tensor(every[:count]).expand(scenes, -1, -1)


def measure(side: int, pairs: int) -> tuple[float, float]:
    """Views per second of processor time and of the wall clock: the best of several repeats."""
    chosen = some_pairs(pairs, SCENES)
    render_worlds(range(2), VIEWS, (side, side), pairs=None if chosen is None else chosen[:2])  # warm
    rates = []
    for repeat in range(REPEATS):
        seeds = range(FIRST_SEED + repeat * SCENES, FIRST_SEED + (repeat + 1) * SCENES)
        wall, processor = time.perf_counter(), time.process_time()
        render_worlds(seeds, VIEWS, (side, side), pairs=chosen)
        rates.append((time.process_time() - processor, time.perf_counter() - wall))
    best_processor, best_wall = (min(column) for column in zip(*rates))
    return SCENES * VIEWS / best_processor, SCENES * VIEWS / best_wall


def speed(console: Console) -> None:
    """Print the table."""
    table = Table(title=f"procedural worlds, {SCENES} scenes of {VIEWS} views, anti-aliased, one thread")
    for column in ("size", "pairs a scene", "views / s / core", "views / s by the wall clock"):
        table.add_column(column, justify="right")
    for side in SIZES:
        for pairs in PAIRS:
            processor, wall = measure(side, pairs)
            table.add_row(f"{side} x {side}", str(pairs), f"{processor:.0f}", f"{wall:.0f}")
    console.print(table)


def identities(object_ids: Tensor) -> Tensor:
    """(3 H W): the background black, every object in a colour of its own."""
    hues = [colorsys.hsv_to_rgb(0.618 * k % 1, 0.75, 0.95) for k in range(int(object_ids.max()) + 1)]
    palette = torch.tensor([(0.0, 0.0, 0.0), *hues[1:]])
    return palette[object_ids].movedim(-1, 0)


def row_of(worlds: Worlds, b: int) -> list[Tensor]:
    """Source and target, then depth, flow, covisibility and identities of the source."""
    views = worlds.views
    i, j = views.flow.pairs[b, 0].tolist()
    covisible = views.flow.covisible[b, 0]
    return [
        views.images[b, i],
        views.images[b, j],
        colourise_depth(views.depth[b, i]),
        colourise_flow(views.flow.displacement[b, 0], mask=covisible),
        colourise_mask(covisible),
        identities(worlds.object_ids[b, i]),
    ]


def contact_sheet(seeds: Sequence[int]) -> Tensor:
    """Two worlds a row, each as `row_of` lays it out."""
    pairs = torch.tensor([[0, 1]]).expand(len(seeds), -1, -1)
    worlds = render_worlds(seeds, 2, SHEET_SIZE, pairs=pairs)
    rows = [range(first, first + SHEET_COLUMNS) for first in range(0, len(seeds), SHEET_COLUMNS)]
    return sheet([[picture for b in row for picture in row_of(worlds, b)] for row in rows])


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG) here instead of measuring")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.sheet is None:
        speed(Console())
    else:
        save_png(arguments.sheet, contact_sheet(range(FIRST_SEED, FIRST_SEED + SHEET_SCENES)))


if __name__ == "__main__":
    main()
