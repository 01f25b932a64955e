"""What a run is made of, and the single steps of its loop, on this rank and together with the others."""

import dataclasses
import functools
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from flow3r.config import MatcherConfig, TrainConfig
from flow3r.data.mixture import Tally, stream
from flow3r.errors import TrainingError
from flow3r.files import atomic_path, write_text
from flow3r.model.checkpoints import Model, save_model
from flow3r.model.fast import compile_blocks
from flow3r.model.inputs import OUTPUTS
from flow3r.train.checkpoint import Checkpoints, Learning, config_as_json
from flow3r.train.distributed import Ranks, answered, in_parts, share, whole_state
from flow3r.train.learner import Learner, Needs, initial_model, needs_of, predict
from flow3r.train.measure import gradient_norms
from flow3r.train.optim import AveragedWeights, freeze_all_but, learning_rate, make_optimizer
from flow3r.train.selection import Selection
from flow3r.types import Prediction, Views

Validation = Callable[[Model], dict[str, float]]  # what is measured of a model, by name


def is_due(done: int, every: int) -> bool:
    """Whether what is done every so many steps is due after `done` finished ones; 0: never on the way."""
    return every > 0 and done % every == 0


class Run:
    """A model that learns, as its last checkpoint left it, or new. All ranks make the same calls."""

    def __init__(self, config: TrainConfig, out: Path, ranks: Ranks, device: torch.device):
        self.config, self.out, self.ranks = config, out, ranks
        self.weights, self.best = out / "model.safetensors", out / "best.safetensors"
        with ranks.together("at the start"):
            self.model: Model = initial_model(config).to(device).train()
            freeze_all_but(self.model, config.trainable)
            if config.compile:
                compile_blocks(self.model, recompute=config.recompute, any_size=True)
        self.sharded = config.parallel == "shard" and not ranks.alone
        self.learner = share(Learner(self.model, config, reach_all=self.sharded), config.parallel, ranks)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.averaged = AveragedWeights(self.model, config.ema) if config.ema else None
        self.checkpoints = Checkpoints(out / "checkpoints", config, ranks)
        self.first_step, progress = self.checkpoints.load(self._learning())
        self.selection = Selection(config, progress.get("selection", {}))
        self.tally = Tally(config.data.bad_sample_budget, *progress.get("tally", {}).get(str(ranks.rank), ()))
        self.seconds: float = progress.get("seconds", 0.0)  # wall time of the steps before, over all starts
        with ranks.together("at the start"):
            if ranks.first:
                write_text(out / "config.json", config_as_json(config))

    def _learning(self) -> Learning:
        return Learning(self.model, self.optimizer, self.averaged)

    def set_rate(self, step: int, progress: float) -> float:
        """Set the learning rate of a step, `progress` in [0, 1] being the share of the run that is done; returns it."""
        rate = learning_rate(self.config.optim, step, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def backward(self, views: Views, step: int, number: int) -> dict[str, Tensor]:
        """Add the gradient of batch `number` of a step; what to record of it, not yet read from the device.

        Raises TrainingError on a loss that is not finite, on all ranks if on one.
        """
        needs = needs_of(views, self.config)
        if self.sharded:
            needs = functools.reduce(operator.or_, self.ranks.gather(needs))
        seed = stream(self.config.seed, step, "loss", number).initial_seed()
        generator = torch.Generator(views.images.device).manual_seed(seed)
        with self.ranks.together(f"step {step}"):
            if not (needs.outputs or needs.flow):
                raise TrainingError(
                    f"step {step}: the labels of this batch teach nothing that learns; expected every source to "
                    f"supervise parameters named {', '.join(map(repr, self.config.trainable))} (trainable)"
                )
            try:
                total, objective = self.learner(views, needs, generator)
            except torch.linalg.LinAlgError as error:  # the alignment of a prediction that is not
                raise self._not_finite("prediction", float("nan"), views, step) from error
            if not torch.isfinite(total):
                raise self._not_finite("loss", total.item(), views, step)
        with answered():
            (total / self.config.accumulate).backward()
        kind = "labelled" if views.labelled else "unlabelled"
        terms = {f"{kind}/{name}": value for name, value in (objective.terms | objective.records).items()}
        return {"loss": objective.total, **terms}

    def update(self, views: Views, step: int) -> dict[str, Tensor]:
        """Clip the gradient and take a step; norms of the gradient before, of all and by part.

        Raises TrainingError where it is not finite, which it is on all ranks or on none.
        """
        parts = gradient_norms(self.model)
        norm = torch.stack(list(parts.values())).norm()
        if not torch.isfinite(norm):
            raise self._not_finite("gradient norm", norm.item(), views, step)
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.optim.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged is not None:
            self.averaged.update(step + 1)
        return {"grad": norm, **{f"grad/{part}": value for part, value in parts.items()}}

    def look(self, views: Views) -> Prediction | None:
        """All that the model says of a batch, for a picture, on the first rank."""
        if not (self.ranks.first or self.sharded):
            return None
        outputs = () if isinstance(self.config.model, MatcherConfig) else OUTPUTS
        needs = Needs(frozenset(outputs), bool(self.config.model.flow) and views.flow is not None)
        with torch.no_grad(), in_parts(self.learner):
            return predict(self.model, views, needs, self.config)

    def validate(self, validation: Validation, done: int) -> dict[str, float]:
        """What a validation measures of the averaged weights, or of the weights themselves; the best are kept."""
        with self._averaged():
            with self.ranks.together(f"validation after step {done}"), in_parts(self.learner):
                values = validation(self.model)
            values = self.ranks.gather(values)[0]  # one judgement, though ranks may round otherwise
            self.model.train()
            if self.selection.judge(values, done):
                self._write(self.best)
        return values

    def save(self, done: int, seconds: float) -> None:
        """Write a checkpoint after `done` finished steps and so much wall time, that of earlier starts included.

        Raises TrainingError where that fails.
        """
        tallies = {str(rank): tally for rank, tally in enumerate(self.ranks.gather(self.tally.state()))}
        progress = {"selection": self.selection.state(), "tally": tallies, "seconds": seconds}
        self.checkpoints.save(self._learning(), done, progress)

    def finish(self) -> None:
        """Write the weights that the run ends with, averaged if so chosen."""
        with self._averaged():
            self._write(self.weights)

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.averaged is None else self.averaged.in_place()

    def _write(self, path: Path) -> None:
        state = whole_state(self.model) if self.sharded else None
        with self.ranks.together(f"writing {path}"):
            if self.ranks.first:
                save_model(self.model, path, state=state)

    def _not_finite(self, name: str, value: float, views: Views, step: int) -> TrainingError:
        """What to raise, the batch being saved."""
        path = self.out / f"non_finite_step_{step}{'' if self.ranks.alone else f'_rank_{self.ranks.rank}'}.pt"
        tensors = {field.name: getattr(views, field.name) for field in dataclasses.fields(views)}
        flow = tensors.pop("flow")
        if flow is not None:
            tensors |= {f"flow.{field.name}": getattr(flow, field.name) for field in dataclasses.fields(flow)}
        with atomic_path(path) as temporary:
            torch.save({name: value for name, value in tensors.items() if value is not None}, temporary)
        return TrainingError(
            f"step {step}: the {name} is {value:g}; the batch is saved as {path}. "
            "Resume from the last checkpoint with a lower learning rate, or inspect the batch"
        )
