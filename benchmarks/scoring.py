"""Stage 2 of evaluation: one 8-view sample of 518 x 392 pixels (1.6 million points), all measures, one thread.

    python -m benchmarks.scoring

The truth is a procedural world; predictions are the truth with waves and noise of a given strength on depth, and no
motion at all. Seconds of processor time, so that other work on the machine disturbs them little; the wall clock stands
beside them. Scoring is single-threaded, so that rows are the same everywhere; samples are scored side by side.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from flow3r.data.worlds import render_worlds
from flow3r.eval.measures import Protocol, score_scene
from flow3r.eval.predictors import identity, truth
from flow3r.geometry.se3 import transform_maps
from flow3r.metrics.points import PI3
from flow3r.types import Prediction, Views

VIEWS, SIZE, SEED = 8, (392, 518), 100
PROFILES = {
    "flow3r": Protocol(),
    "flow3r, as the paper measures": Protocol(("pose", "points")),
    "pi3": Protocol(("pose", "points", "normals", "depth"), PI3),
    "flow3r, 200,000 points": Protocol(("pose", "points")),
}
BUDGETS = {"flow3r, 200,000 points": 200_000}


def wavy(views: Views, strength: float) -> Prediction:
    """The truth with depth that is wrong by waves, and by a third as much noise."""
    exact, generator = truth(views), torch.Generator().manual_seed(0)
    noise = torch.randn(exact.local_points.shape[:-1], generator=generator)[..., None]
    factor = 1 + strength * (torch.sin(3 * exact.local_points[..., :1]) + noise / 3)
    local = factor * exact.local_points
    return replace(exact, local_points=local, world_points=transform_maps(exact.world_from_camera, local))


PREDICTIONS: dict[str, Callable[[Views], Prediction]] = {
    "the truth": truth,
    "depth wrong by 3 %": lambda views: wavy(views, 0.03),
    "depth wrong by 10 %": lambda views: wavy(views, 0.1),
    "no motion, a flat wall": identity,
}


def peak_gigabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="*", default=list(PROFILES), choices=list(PROFILES))
    parser.add_argument("--predictions", nargs="*", default=list(PREDICTIONS)[:3], choices=list(PREDICTIONS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    views = render_worlds([SEED], VIEWS, SIZE).views
    table = Table(title=f"scoring {VIEWS} views of {SIZE[1]} x {SIZE[0]}: {int((views.depth > 0).sum()):,} points")
    for column in ("measures", "prediction", "CPU s", "wall s", "peak GB so far", "MSE", "F@5"):
        table.add_column(column, justify="right")
    for profile in arguments.profiles:
        for name in arguments.predictions:
            prediction = PREDICTIONS[name](views)
            wall, processor = time.perf_counter(), time.process_time()
            found = score_scene(prediction, views, 0, BUDGETS.get(profile), PROFILES[profile]).values
            seconds = time.process_time() - processor, time.perf_counter() - wall
            numbers = (*seconds, peak_gigabytes())
            table.add_row(profile, name, *(f"{n:.1f}" for n in numbers), f"{found['mse']:.4f}", f"{found['f@5']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
