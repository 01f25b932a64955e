"""The training loop, top to bottom, for any preset, on a CPU or on accelerators, one process for each."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from flow3r.config import TrainConfig
from flow3r.data.mixture import Source, Weighted, iterate_batches
from flow3r.errors import TrainingError
from flow3r.model.checkpoints import Model
from flow3r.train.distributed import joined_ranks, termination, use_device_of_rank
from flow3r.train.observer import Observer
from flow3r.train.probe import GradientProbe
from flow3r.train.run import Run, Validation, is_due


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its model (in evaluation mode), where its weights lie, and how far it went.

    `steps`, and `seconds` of wall time, are counted over all its starts. `best`: the weights that the validation found
    best, and after which step, where there was one to judge by.
    """

    model: Model
    weights: Path
    steps: int
    seconds: float
    best: Path | None = None
    best_step: int | None = None


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    clips: Source | Weighted | None = None,
    labelled: Source | Weighted | None = None,
    validation: Validation | None = None,
    device: torch.device | str | None = None,
    seconds: float | None = None,
    quiet: bool = False,
    wandb: str | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train `config` in the folder `out`, going on from its last checkpoint if there is one.

    `clips` are unlabelled clips with flow, mixed with labelled worlds as `config.data` says, or with `labelled` scenes
    in their place (data/posed.py). `validation` measures the model every `config.validate_every` steps and at the end;
    by it the best weights are chosen, and a run without progress ended, as `config` says. `seconds` ends the run early
    by wall time, with the learning rate decayed to match: it counts all the run's time, so that a run that was stopped
    has what is left of it, and one that has used it goes on only where it is given more. `wandb`: a project of Weights
    & Biases to log to as well.

    Of what `config` has done every so many steps, 0 is never on the way; the validation and the checkpoint at the end,
    and the log of the last of `config.steps`, are made all the same.

    Writes `config.json`, `checkpoints`, `log.jsonl`, `pictures`, `model.safetensors`, and, if chosen,
    `best.safetensors`. After SIGTERM the step at hand is finished and saved, then SystemExit(0) raised.

    Started by `torchrun`, each process learns from batches of its own, alike in kind and size in every step; the first
    one writes. `on_step(step, loss)` is called on each after each step, with the loss of its own batches.

    Raises TrainingError for settings that contradict each other, a preset whose data is not here, a loss or a gradient
    that is not finite (after saving the batch), a checkpoint of another configuration, one that cannot be written: on
    all processes if on one.
    """
    _check(config, labelled, clips, validation, seconds)
    device = use_device_of_rank(device)
    with joined_ranks(device) as ranks, termination() as terminated:
        if config.probe_every and not ranks.alone:
            raise TrainingError(f"probe_every {config.probe_every} on {ranks.world} processes; expected one, or 0")
        run, limit = Run(config, Path(out), ranks, device), math.inf if seconds is None else seconds
        begin = time.monotonic() - run.seconds
        # Batches are numbered over all ranks: two ranks of one batch see what one rank of two batches would.
        numbers = range(ranks.rank * config.accumulate, (ranks.rank + 1) * config.accumulate)
        sources = {"labelled": labelled, "tally": run.tally}
        streams = [iterate_batches(config, run.first_step, clips, device, rank=n, **sources) for n in numbers]
        probe = GradientProbe(run, clips, labelled)
        done, elapsed = run.first_step, run.seconds
        stopping = elapsed >= limit or run.selection.exhausted
        with Observer(run, device, quiet, wandb) as observer:
            if stopping:
                observer.over()
            while done < config.steps and not stopping:
                step = done
                rate = run.set_rate(step, max(step / config.steps, elapsed / limit))
                with ranks.together(f"step {step}"), observer.waiting():
                    batches = [next(stream) for stream in streams]
                measured = probe.measure(batches[0], step)
                terms = [run.backward(views, step, number) for views, number in zip(batches, numbers, strict=True)]
                norms = run.update(batches[-1], step)

                done = step + 1
                elapsed, terminating = ranks.highest(time.monotonic() - begin, terminated())
                ending = done == config.steps or elapsed >= limit
                validating = validation is not None and (ending or is_due(done, config.validate_every))
                validated = run.validate(validation, done) if validating else {}
                measured |= {f"validation/{name}": value for name, value in validated.items()}
                observer.step(done, batches, terms, {"lr": rate, **norms}, measured)
                with ranks.together(f"step {step}"):
                    if on_step is not None:
                        on_step(done, sum(float(batch["loss"]) for batch in terms) / config.accumulate)
                stopping = ending or bool(terminating) or run.selection.exhausted
                if stopping or is_due(done, config.checkpoint_every):
                    run.save(done, elapsed)
                if terminating:
                    observer.stopped(done)
                    raise SystemExit(0)
        run.finish()
        best = (run.best, run.selection.step) if run.selection.step is not None else ()
        return TrainResult(run.model.eval(), run.weights, done, time.monotonic() - begin, *best)


def _check(
    config: TrainConfig,
    labelled: Source | Weighted | None,
    clips: Source | Weighted | None,
    validation: Validation | None,
    seconds: float | None,
) -> None:
    """Raise TrainingError for what no run can be made of."""
    if config.accumulate < 1:
        raise TrainingError(f"accumulate is {config.accumulate}; expected at least one batch for each step")
    if config.steps < 0 or (seconds is not None and seconds <= 0):
        raise TrainingError(f"steps {config.steps}, seconds {seconds}; expected some to train for")
    for name in ("log_every", "image_every", "validate_every", "checkpoint_every", "probe_every"):
        if getattr(config, name) < 0:
            raise TrainingError(f"{name} is {getattr(config, name)}; expected a number of steps, or 0 for never")
    if (config.best_by or config.patience) and validation is None:
        raise TrainingError(f"best_by {config.best_by!r}, patience {config.patience}, but no validation to judge by")
    if config.patience and config.best_by is None:
        raise TrainingError(f"patience {config.patience}, but best_by does not say what must get better")
    lacking = [*config.data.labelled] * (labelled is None) + [*config.data.unlabelled] * (clips is None)
    if lacking:
        named = ", ".join(sorted({source.dataset for source in lacking}))
        raise TrainingError(
            f"preset {config.name!r} is trained on {named}; expected their sequences (flow3r train --root ROOT, with "
            "--labels or --teacher for unlabelled video), or a preset of procedural worlds"
        )
