"""One rank of several that train tiny models and leave what became of them: run by test_distributed.py, once per rank.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python two_ranks.py FOLDER
"""

import dataclasses
import os
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tiny_model import TINY

from flow3r.config import DataConfig, OptimConfig, TrainConfig, WorldsConfig
from flow3r.data.mixture import Source, Wanted, draw_pairs
from flow3r.data.worlds import render_worlds
from flow3r.model.checkpoints import load_model
from flow3r.train import distributed
from flow3r.train.distributed import joined_ranks
from flow3r.train.loop import train
from flow3r.types import Flow, Views

CONFIG = TrainConfig(
    name="test",
    model=TINY,
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
    data=DataConfig(views=(2, 2), images_per_batch=4, tokens=(9, 12), pairs_per_scene=2, workers=0, augment=False),
    steps=6,
    precision="float32",
    checkpoint_every=2,
    log_every=1,
)
ONLY_CLIPS = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, unlabelled_share=1.0))
WITH_WORKER = dataclasses.replace(ONLY_CLIPS, data=dataclasses.replace(ONLY_CLIPS.data, workers=1))


class ShiftedClips(Source):
    """Unlabelled clips: random texture moved by a constant flow, which is the label."""

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        chosen = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator)
        flow = torch.full((*chosen.shape[:2], *wanted.size, 2), 3.0)
        images = torch.rand(wanted.scenes, wanted.views, 3, *wanted.size, generator=generator)
        return Views(images, flow=Flow(chosen, flow, torch.ones(flow.shape[:-1])))


class LabelledClips(Source):
    """Labelled worlds without flow, in the place of clips."""

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        seeds = torch.randint(0, 100, (wanted.scenes,), generator=generator).tolist()
        return render_worlds(seeds, wanted.views, wanted.size, config=WorldsConfig()).views


class PoisonedClips(ShiftedClips):
    """The third batch drawn has a flow that is not a number."""

    drawn = 0

    def draw(self, *arguments: Any) -> Views:
        views, self.drawn = super().draw(*arguments), self.drawn + 1
        if self.drawn < 3:
            return views
        return dataclasses.replace(
            views, flow=dataclasses.replace(views.flow, displacement=views.flow.displacement * torch.nan)
        )


@dataclasses.dataclass
class FailingClips(ShiftedClips):
    """The second batch drawn raises an error."""

    error: Exception
    drawn: int = 0

    def draw(self, *arguments: Any) -> Views:
        self.drawn += 1
        if self.drawn == 2:
            raise self.error
        return super().draw(*arguments)


def at_step(wanted: int, action: Any) -> Any:
    return lambda step, loss: action() if step == wanted else None


def in_parts(config: TrainConfig) -> TrainConfig:
    return dataclasses.replace(config, parallel="shard")


SHARDED = dataclasses.replace(
    CONFIG, parallel="shard", recompute="everything", ema=0.9, image_every=3, validate_every=3, best_by="aepe"
)


def measured(model: Any) -> dict[str, float]:
    """A validation: the mean length of flow of two fixed images."""
    images = torch.rand(1, 2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow = model(images, torch.tensor([[[0, 1]]])).flow
    return {"aepe": float(flow.displacement.norm(dim=-1).mean())}


def outcome(config: TrainConfig, folder: Path, clips: Any = None, **options: Any) -> dict[str, Any]:
    """The weights and the losses of a run on this rank, or the error that ended it."""
    losses: list[float] = []
    try:
        options = {"on_step": lambda step, loss: losses.append(loss), **options}
        result = train(config, folder, clips=clips, device="cpu", quiet=True, **options)
    except (Exception, SystemExit) as error:
        return {"ended": f"{type(error).__name__}: {error}"}
    return {"weights": load_model(result.weights).state_dict(), "steps": result.steps, "losses": losses}


class Interrupted(Exception):
    pass


def interrupt() -> None:
    raise Interrupted("in the middle")


def run(folder: Path, rank: int) -> dict[str, Any]:
    """All checks, in an order that both ranks keep."""
    seen: dict[str, Any] = {}
    with joined_ranks(torch.device("cpu")) as ranks:
        seen["mixed kinds"] = outcome(ONLY_CLIPS, folder / "mixed", (LabelledClips, ShiftedClips)[rank]())
        seen["whole"] = outcome(CONFIG, folder / "whole", ShiftedClips())
        # After the checkpoint of step 4: step 5 is lost and must be repeated.
        on_step = at_step(5, interrupt) if rank == 1 else None
        seen["interrupted"] = outcome(CONFIG, folder / "cut", ShiftedClips(), on_step=on_step)
        if ranks.first:
            shutil.copytree(folder / "cut", folder / "moved")
        seen["resumed"] = outcome(CONFIG, folder / "cut", ShiftedClips())
        on_step = at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM)) if rank == 1 else None
        seen["terminated"] = outcome(CONFIG, folder / "terminated", ShiftedClips(), on_step=on_step)
        seen["requeued"] = outcome(CONFIG, folder / "terminated", ShiftedClips())
        seen["non-finite"] = outcome(ONLY_CLIPS, folder / "nan", (ShiftedClips, PoisonedClips)[rank]())
        errors = (ShiftedClips(), FailingClips(KeyError("lost")))
        seen["one worker"] = outcome(WITH_WORKER, folder / "one", errors[rank])
        errors = (FailingClips(ZeroDivisionError("by zero")), FailingClips(KeyError("lost")))
        seen["both workers"] = outcome(WITH_WORKER, folder / "both", errors[rank])
        seen["sharded"] = outcome(SHARDED, folder / "sharded", ShiftedClips(), validation=measured)
        kinds = (LabelledClips, ShiftedClips)
        seen["sharded kinds"] = outcome(in_parts(ONLY_CLIPS), folder / "sharded_mixed", kinds[rank]())
        on_step = at_step(5, interrupt) if rank == 1 else None
        outcome(in_parts(CONFIG), folder / "sharded_cut", ShiftedClips(), on_step=on_step)
        if ranks.first:
            shutil.copytree(folder / "sharded_cut", folder / "resharded")
        seen["sharded resumed"] = outcome(in_parts(CONFIG), folder / "sharded_cut", ShiftedClips())
        seen["late"] = outcome(CONFIG, folder / "late", ShiftedClips(), seconds=1e-6)
        apart = folder / "apart" / str(rank)
        outcome(dataclasses.replace(CONFIG, steps=2), folder / "apart" / "0", ShiftedClips())
        seen["apart"] = outcome(CONFIG, apart, ShiftedClips())

    distributed.TIMEOUT = timedelta(seconds=1)
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    silent = at_step(2, lambda: time.sleep(3)) if rank == 1 else None
    seen["silent"] = outcome(CONFIG, folder / "silent", ShiftedClips(), on_step=silent)
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    own_rank = int(os.environ["RANK"])
    torch.save(run(Path(sys.argv[1]), own_rank), Path(sys.argv[1]) / f"rank_{own_rank}.pt")
