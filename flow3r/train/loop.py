"""The training loop, top to bottom, for any preset, on a CPU or on accelerators, one process for each."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.mixture import Source, Tally, Weighted, iterate_batches, stream
from flow3r.draw import training_picture
from flow3r.errors import TrainingError
from flow3r.files import atomic_path, write_text
from flow3r.losses.objective import OBJECTIVES, Objective
from flow3r.model.checkpoints import MODEL_OF, Model, find_weights, initialise_from, load_encoder, save_model
from flow3r.nn.memory import Memory
from flow3r.nn.precision import fast_dtype
from flow3r.train.checkpoint import config_as_json, load_checkpoint, save_checkpoint
from flow3r.train.distributed import Ranks, device_of_rank, joined_ranks, termination
from flow3r.train.log import RunLog
from flow3r.train.optim import freeze_all_but, learning_rate, make_optimizer
from flow3r.types import Prediction, Views


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run: its model (in evaluation mode), where its weights lie, and how far it went."""

    model: Model
    weights: Path
    steps: int
    seconds: float


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    clips: Source | Weighted | None = None,
    labelled: Source | Weighted | None = None,
    device: torch.device | str | None = None,
    seconds: float | None = None,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train `config` in the folder `out`, going on from its last checkpoint if there is one.

    `clips` are unlabelled clips with flow, mixed with labelled worlds as `config.data` says, or with `labelled` scenes
    in their place (data/posed.py). `seconds` ends the run early by wall time, with the learning rate decayed to match.
    Writes `config.json`, `checkpoint.pt`, `log.jsonl` and `model.safetensors`. After SIGTERM the step at hand is
    finished and saved, then SystemExit(0) raised.

    Started by `torchrun`, each process learns from batches of its own, alike in kind and size in every step; the first
    one writes. `on_step(step, loss)` is called on each after each step, with the loss of its own batches.

    Raises TrainingError for a preset whose data is not here, on a non-finite loss or gradient norm (after saving the
    batch beside the checkpoint), and on a checkpoint of another configuration: on all processes if on one.
    """
    _check(config)
    device = device_of_rank(device)
    with joined_ranks(device) as ranks, termination() as terminated:
        return _train(ranks, config, Path(out), clips, labelled, device, seconds, quiet, on_step, terminated)


def _train(
    ranks: Ranks,
    config: TrainConfig,
    out: Path,
    clips: Source | Weighted | None,
    labelled: Source | Weighted | None,
    device: torch.device,
    seconds: float | None,
    quiet: bool,
    on_step: Callable[[int, float], None] | None,
    terminated: Callable[[], bool],
) -> TrainResult:
    checkpoint, weights = out / "checkpoint.pt", out / "model.safetensors"
    with ranks.together("at the start"):
        model, optimizer, first_step = _start(config, checkpoint, device)
        if ranks.first:
            write_text(out / "config.json", config_as_json(config))
    ranks.agree(model, first_step)

    tally = Tally(config.data.bad_sample_budget)
    # Shares are numbered over all ranks: two ranks of one share see what one rank of two shares would.
    shares = range(ranks.rank * config.accumulate, (ranks.rank + 1) * config.accumulate)
    sources = {"labelled": labelled, "tally": tally}
    batches = zip(*(iterate_batches(config, first_step, clips, device, rank=share, **sources) for share in shares))
    begin, elapsed, stopping, done = time.monotonic(), 0.0, False, first_step
    with RunLog(out, config.steps, first_step, quiet) if ranks.first else nullcontext() as log:
        for step in range(first_step, config.steps):
            rate = learning_rate(config.optim, step, max(step / config.steps, elapsed / seconds if seconds else 0.0))
            for group in optimizer.param_groups:
                group["lr"] = rate

            records = []
            with ranks.together(f"step {step}"):
                for share, views in zip(shares, next(batches), strict=True):
                    prediction, objective = _forward(model, views, config, stream(config.seed, step, "loss", share))
                    (objective.total / config.accumulate).backward()
                    norm = _gradient_norm(model)
                    _stop_unless_finite(objective.total, norm, views, step, out, ranks)
                    records.append(_record(objective, views))
            if not ranks.alone:
                ranks.average_gradients(model.parameters())
                norm = _gradient_norm(model)
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip_norm, norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            elapsed, stopping = ranks.highest(time.monotonic() - begin, terminated())
            recording = done % config.log_every == 0 or done == config.steps
            means = _means(ranks, records) if recording else {}
            with ranks.together(f"step {step}"):
                if on_step is not None:
                    on_step(done, sum(float(record["loss"]) for record in records) / config.accumulate)
                if log is not None:
                    log.advance(done)
                    if recording:
                        speed = (done - first_step) / (time.monotonic() - begin)
                        unread = {"unread": tally.bad / tally.scenes} if tally.bad else {}
                        log.scalars(done, {"lr": rate, "grad": norm, "steps/s": speed, **unread, **means})
                    if log.draws and done % config.image_every == 0:
                        log.picture(done, "flow_and_points", training_picture(views, prediction))
                if ranks.first and done % config.checkpoint_every == 0:
                    save_checkpoint(checkpoint, model, optimizer, done, config)
            if stopping or (seconds is not None and elapsed >= seconds):
                break

    with ranks.together("at the end"):
        if ranks.first and done > first_step and done % config.checkpoint_every != 0:
            save_checkpoint(checkpoint, model, optimizer, done, config)
        if ranks.first and not stopping:
            save_model(model, weights)
    if stopping:
        raise SystemExit(0)
    return TrainResult(model.eval(), weights, done, time.monotonic() - begin)


def initial_model(config: TrainConfig) -> Model:
    """The model that a run starts from: initialised from the run's seed, then filled with the weights that it names.

    Raises CheckpointError where these do not fit.
    """
    # Found, and their licences accepted, before a large model is built.
    encoder, start = (None if name is None else find_weights(name) for name in (config.encoder_from, config.init_from))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODEL_OF[type(config.model)](config.model)
    if encoder is not None:
        load_encoder(model, encoder)
    if start is not None:
        initialise_from(model, start)
    model.memory = Memory(recompute=config.recompute)
    return model


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to run under bf16 autocast: as the configuration says, or `auto`: where the device computes in it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return fast_dtype(device) == torch.bfloat16


def _start(config: TrainConfig, checkpoint: Path, device: torch.device) -> tuple[Model, torch.optim.Optimizer, int]:
    """The model and its optimizer as the last checkpoint left them, or new, and the number of finished steps."""
    model = initial_model(config).to(device).train()
    freeze_all_but(model, config.trainable)
    optimizer = make_optimizer(model, config.optim)
    return model, optimizer, load_checkpoint(checkpoint, model, optimizer, config, device) if checkpoint.exists() else 0


def _forward(
    model: Model, views: Views, config: TrainConfig, generator: torch.Generator
) -> tuple[Prediction, Objective]:
    device = views.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config, device)):
        prediction = model(
            views.images, _pairs(views, config.data), intrinsics=views.intrinsics, outputs=_outputs(views)
        )
    objective = OBJECTIVES[type(config.model)]
    return prediction, objective(prediction, views, config.loss, generator if device.type == "cpu" else None)


def _check(config: TrainConfig) -> None:
    if config.accumulate < 1:
        raise TrainingError(f"accumulate is {config.accumulate}; expected at least one batch for each step")
    named = ", ".join(sorted({source.dataset for source in (*config.data.labelled, *config.data.unlabelled)}))
    if named:
        raise TrainingError(
            f"preset {config.name!r} is trained on {named}, for which there is no reader yet; expected a preset of "
            "procedural worlds, with a label store for unlabelled video (--labels)"
        )


def _pairs(views: Views, data: DataConfig) -> Tensor | None:
    unwanted = views.flow is None or (views.labelled and not data.labelled_flow)
    return None if unwanted else views.flow.pairs


def _outputs(views: Views) -> tuple[str, ...]:
    """The outputs that these labels supervise; flow comes with its pairs."""
    if views.labelled:
        return ("points", "confidence", "cameras")
    return ("cameras",) if views.world_from_camera is not None else ()


def _gradient_norm(model: Model) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def _record(objective: Objective, views: Views) -> dict[str, Tensor]:
    kind = "labelled" if views.labelled else "unlabelled"
    terms = {f"{kind}/{name}": value for name, value in (objective.terms | objective.records).items()}
    return {"loss": objective.total.detach(), **terms}


def _means(ranks: Ranks, records: list[dict[str, Tensor]]) -> dict[str, float]:
    """Of every value, the mean over the batches of all ranks that have it."""
    plain = [{name: float(value) for name, value in record.items()} for record in records]
    values: dict[str, list[float]] = {}
    for record in itertools.chain.from_iterable(ranks.gather(plain)):
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: sum(several) / len(several) for name, several in values.items()}


def _stop_unless_finite(loss: Tensor, norm: Tensor, views: Views, step: int, out: Path, ranks: Ranks) -> None:
    if torch.isfinite(loss) & torch.isfinite(norm):
        return
    path = out / f"non_finite_step_{step}{'' if ranks.alone else f'_rank_{ranks.rank}'}.pt"
    tensors = {field.name: getattr(views, field.name) for field in dataclasses.fields(views)}
    flow = tensors.pop("flow")
    if flow is not None:
        tensors |= {f"flow.{field.name}": getattr(flow, field.name) for field in dataclasses.fields(flow)}
    with atomic_path(path) as temporary:
        torch.save({name: value for name, value in tensors.items() if value is not None}, temporary)
    raise TrainingError(
        f"step {step}: loss {loss.item():g}, gradient norm {norm.item():g}; the batch is saved as {path}. "
        "Resume from the last checkpoint with a lower learning rate, or inspect the batch"
    )
