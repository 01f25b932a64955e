"""Whether data keeps up with training: what a step waits for, on every device at hand.

    python -m benchmarks.data_rate
    python -m benchmarks.data_rate --preset nano --steps 40

A short training of a preset on procedural worlds (on CUDA rendered there, beside the step), and on clips of a label
store and of its copy for machines without video libraries (from a worker process). "Waited" is the `data_wait` of the
run's log: the share of the wall time of the last half of the steps in which the loop stood still for a batch. What the
source gives by itself is taken with no training beside it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from flow3r.config import TrainConfig
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Source, iterate_batches
from flow3r.data.predecode import predecode
from flow3r.data.regime_labels import label_set
from flow3r.data.regimes import WorldSet
from flow3r.presets import PRESETS
from flow3r.teacher import teacher_called
from flow3r.train.loop import train

GOAL = 0.05  # of the wall time
STEPS = {"cpu": 6, "cuda": 60}
WORLDS = WorldSet("elsewhere", "unlabelled", 4)  # labelled for the stores


@dataclass(frozen=True)
class Rate:
    """What one row says."""

    alone: float  # images per second of the source by itself
    steps: float  # per second
    images: float  # per second
    data_wait: float  # share of the wall time


def stores(folder: Path) -> Iterator[tuple[str, Path]]:
    """A label store of worlds, and its copy."""
    label_set(WORLDS, teacher_called("classical"), folder / "labels")
    predecode(folder / "labels", folder / "copy")
    yield "label store", folder / "labels"
    yield "predecoded copy", folder / "copy"


def rate_alone(config: TrainConfig, clips: Source | None, device: torch.device) -> float:
    """Images per second, but for the first batch, with which workers start."""
    batches = iterate_batches(config, 0, clips, device)
    next(batches)
    begin, images = time.perf_counter(), 0
    for views in batches:
        images += views.images.shape[:2].numel()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images / (time.perf_counter() - begin)


def measure(config: TrainConfig, clips: Source | None, device: torch.device, out: Path) -> Rate:
    """The pace of the last half of the steps, as the run's log has it."""
    alone = rate_alone(config, clips, device)
    train(config, out, clips=clips, device=device, quiet=True)
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = [record for record in records if "data_wait" in record][-1]
    return Rate(alone, last["steps/s"], last["images/s"], last["data_wait"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--steps", type=int, help="steps of each run; half of them are measured")
    parser.add_argument("--workers", type=int, default=1, help="processes that read ahead")
    arguments = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    table = Table(title=f"{arguments.preset}: does data keep up? Goal: {GOAL:.0%} waited at most")
    for column in ("device", "data", "alone, images/s", "training, images/s", "steps/s", "waited for data"):
        table.add_column(column, justify="right" if "/" in column or "waited" in column else "left")
    with tempfile.TemporaryDirectory() as temporary:
        sources = [("worlds", None), *stores(Path(temporary))]
        for device in map(torch.device, devices):
            steps = arguments.steps or STEPS[device.type]
            config = PRESETS[arguments.preset]
            config = replace(config, steps=steps, log_every=max(1, steps // 2), image_every=10**9, init_from=None)
            for name, store in sources:
                data = replace(config.data, workers=arguments.workers, unlabelled_share=0.0 if store is None else 1.0)
                clips = None if store is None else LabelClips(LabelStore(store), crop=data.crop_clips)
                out = Path(temporary) / f"{device.type} {name}"
                found = measure(replace(config, data=data), clips, device, out)
                numbers = (f"{found.alone:.0f}", f"{found.images:.0f}", f"{found.steps:.2f}", f"{found.data_wait:.1%}")
                table.add_row(device.type, name, *numbers)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
