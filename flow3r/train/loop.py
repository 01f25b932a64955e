"""The training loop, top to bottom, for any preset, on a CPU or one accelerator."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.mixture import ClipSource, iterate_batches, stream
from flow3r.draw import training_picture
from flow3r.errors import TrainingError
from flow3r.files import atomic_path, write_text
from flow3r.losses.objective import OBJECTIVES
from flow3r.model.checkpoints import MODEL_OF, Model, initialise_from, load_encoder, save_model
from flow3r.nn.memory import Memory
from flow3r.nn.precision import fast_dtype
from flow3r.train.checkpoint import config_as_json, load_checkpoint, save_checkpoint
from flow3r.train.log import RunLog
from flow3r.train.optim import freeze_all_but, learning_rate, make_optimizer
from flow3r.types import Views


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
    clips: ClipSource | None = None,
    device: torch.device | str | None = None,
    seconds: float | None = None,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train `config` in the folder `out`, going on from its last checkpoint if there is one.

    `clips` are unlabelled clips with flow, mixed with labelled worlds as `config.data` says. `seconds` ends the run
    early by wall time, with the learning rate decayed to match. `on_step(step, loss)` is called after each step. Writes
    `config.json`, `checkpoint.pt`, `log.jsonl` and `model.safetensors`.

    Raises TrainingError for a preset whose data is not here, on a non-finite loss or gradient norm (after saving the
    batch beside the checkpoint), and on a checkpoint of another configuration.
    """
    _check(config)
    out = Path(out)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = initial_model(config).to(device).train()
    freeze_all_but(model, config.trainable)
    optimizer = make_optimizer(model, config.optim)
    checkpoint = out / "checkpoint.pt"
    first_step = load_checkpoint(checkpoint, model, optimizer, config, device) if checkpoint.exists() else 0
    write_text(out / "config.json", config_as_json(config))

    begin = time.monotonic()
    done, saved = first_step, first_step
    with RunLog(out, config.steps, first_step, quiet) as log:
        for step, views in enumerate(iterate_batches(config, first_step, clips, device), first_step):
            elapsed = time.monotonic() - begin
            rate = learning_rate(config.optim, step, max(step / config.steps, elapsed / seconds if seconds else 0.0))
            for group in optimizer.param_groups:
                group["lr"] = rate

            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config, device)):
                prediction = model(
                    views.images, _pairs(views, config.data), intrinsics=views.intrinsics, outputs=_outputs(views)
                )
            generator = stream(config.seed, step, "loss") if device.type == "cpu" else None
            objective = OBJECTIVES[type(config.model)](prediction, views, config.loss, generator)
            objective.total.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
            _stop_unless_finite(objective.total, norm, views, step, out)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            log.advance(done)
            if on_step is not None:
                on_step(done, objective.total.item())
            if done % config.log_every == 0 or done == config.steps:
                kind = "labelled" if views.labelled else "unlabelled"
                scalars = {f"{kind}/{name}": x for name, x in (objective.terms | objective.records).items()}
                speed = (done - first_step) / (time.monotonic() - begin)
                log.scalars(done, {"loss": objective.total, "lr": rate, "grad": norm, "steps/s": speed, **scalars})
            if log.draws and done % config.image_every == 0:
                log.image(done, "flow and points", training_picture(views, prediction))
            if done % config.checkpoint_every == 0:
                save_checkpoint(checkpoint, model, optimizer, done, config)
                saved = done
            if seconds is not None and time.monotonic() - begin >= seconds:
                break
    if saved != done:
        save_checkpoint(checkpoint, model, optimizer, done, config)
    weights = out / "model.safetensors"
    save_model(model, weights)
    return TrainResult(model.eval(), weights, done, time.monotonic() - begin)


def initial_model(config: TrainConfig) -> Model:
    """The model that a run starts from: initialised from the run's seed, then filled with the weights that it names.

    Raises CheckpointError where these do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODEL_OF[type(config.model)](config.model)
    if config.encoder_from is not None:
        load_encoder(model, config.encoder_from)
    if config.init_from is not None:
        initialise_from(model, config.init_from)
    model.memory = Memory(recompute=config.gradient_checkpointing)
    return model


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to run under bf16 autocast: as the configuration says, or `auto`: where the device computes in it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return fast_dtype(device) == torch.bfloat16


def _check(config: TrainConfig) -> None:
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


def _stop_unless_finite(loss: Tensor, norm: Tensor, views: Views, step: int, out: Path) -> None:
    if torch.isfinite(loss) & torch.isfinite(norm):
        return
    path = out / f"non_finite_step_{step}.pt"
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
