"""Pseudo-3D labels of unlabelled worlds against the truth, and what they cost beside the flow that they are made from.

    python -m benchmarks.pseudo_labels --labels STORE --folder OUT [--worlds 40] [--matches features] [--side 224]

STORE holds the embedded teacher's flow of `elsewhere/unlabelled` and OUT the pseudo-3D labels; what is missing in
either is made first, and CPU seconds of one thread are told for what was made now. The truth is looked at here alone.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from flow3r.data.pseudo_worlds import PseudoWorlds
from flow3r.data.regime_labels import label_set
from flow3r.data.regimes import FRAMES, WorldSet
from flow3r.experiment.pseudo_labels import Optimiser, pseudo_label_set
from flow3r.metrics.depth import depth_errors
from flow3r.metrics.pose import pair_scores, relative_pose_errors, trajectory_errors
from flow3r.teacher.classical import ClassicalTeacher


@dataclass(frozen=True)
class Errors:
    """Of one solved world, over its placed frames."""

    rotation: float  # mean degrees over pairs of frames
    rra: float  # RRA@5, per cent
    rta: float  # RTA@15, per cent
    drift: float  # ATE over the largest distance of a true camera from their mean
    focal: float  # |log2| of found over true
    abs_rel: float  # of known depth, after one scale for the world
    delta: float  # per cent of known depth within 1.25
    known: float  # per cent of pixels


def main() -> None:
    """Label what is missing, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--each", action="store_true", help="a line for every world")
    for name, default in (("matches", "flow"), ("side", None), ("stride", None)):
        parser.add_argument(f"--{name}", type=type(default) if default else int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    worlds = WorldSet("elsewhere", "unlabelled", asked.worlds)
    changes = {name: getattr(asked, name) for name in ("matches", "side", "stride") if getattr(asked, name)}
    store, of_flow = timed(lambda: label_set(worlds, ClassicalTeacher(), asked.labels))
    missing = asked.worlds
    if asked.folder.exists():
        missing = len(PseudoWorlds(worlds, asked.folder).missing)
    pseudo, of_labels = timed(lambda: pseudo_label_set(worlds, store, asked.folder, Optimiser(**changes)))
    table = Table("what", "measured", title=f"{asked.worlds} worlds of {worlds.name}: {changes}")
    table.add_row("CPU s of flow labels made now", f"{of_flow:.1f}")
    table.add_row("CPU s a world of pseudo-3D labels on top", f"{of_labels / max(missing, 1):.2f}, {missing} made now")
    fill(table, pseudo, asked.each)
    Console(width=150).print(table)


def timed(make: Any) -> tuple[Any, float]:
    """What was made, and CPU seconds."""
    start = time.process_time()
    return make(), time.process_time() - start


def fill(table: Table, pseudo: PseudoWorlds, each: bool) -> None:
    """Rows of shares solved, reasons of failures, and errors of what was solved."""
    whole = [number for number, placed in pseudo.solved.items() if placed == FRAMES]
    count = pseudo.worlds.count
    table.add_row("solved", f"{len(pseudo.solved)} of {count}, {len(whole)} of them whole")
    table.add_row("frames placed", f"{sum(pseudo.solved.values())} of {count * FRAMES}")
    for number, reason in pseudo.failed.items():
        table.add_row(f"failed: {number}", reason)
    every = {number: errors_of(pseudo, number) for number in pseudo.solved}
    if each:
        for number, found in every.items():
            table.add_row(f"{number}", " ".join(f"{name} {value:.3g}" for name, value in vars(found).items()))
    for name in Errors.__dataclass_fields__:
        values = [getattr(found, name) for found in every.values()]
        quarters = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        told = f"mean {statistics.mean(values):.3f}; quartiles {quarters[0]:.3f}, {quarters[1]:.3f}, {quarters[2]:.3f}"
        table.add_row(name, told)


def errors_of(pseudo: PseudoWorlds, number: int) -> Errors:
    """Of a solved world, against what was rendered."""
    frames = torch.tensor(pseudo.facts(number)["placed"])
    found = pseudo.views([number], torch.arange(len(frames))[None])
    truth = pseudo.worlds.render([number], frames[None]).views
    poses, true_poses = found.world_from_camera[0].double(), truth.world_from_camera[0].double()
    pairs = relative_pose_errors(poses, true_poses)
    scores = pair_scores(pairs)
    centre = true_poses[:, :3, 3]
    known = found.depth[0] > 0
    depth = depth_errors(found.depth[0], truth.depth[0], known)
    return Errors(
        rotation=float(pairs.rotation.mean()),
        rra=scores.rra[0],
        rta=scores.rta[1],
        drift=trajectory_errors(poses, true_poses).ate / float((centre - centre.mean(0)).norm(dim=-1).max()),
        focal=abs(float((found.intrinsics[0, 0, 0, 0] / truth.intrinsics[0, 0, 0, 0]).log2())),
        abs_rel=depth.abs_rel,
        delta=depth.delta,
        known=100 * float(known.float().mean()),
    )


if __name__ == "__main__":
    main()
