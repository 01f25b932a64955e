"""What a run leaves to look at: the console, one JSON line per record, PNG pictures; TensorBoard where it is installed,
Weights & Biases where it is asked for."""

import importlib.util
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text
from torch import Tensor

from flow3r.draw import save_png, to_bytes
from flow3r.errors import TrainingError
from flow3r.files import write_text

LINE_EVERY = 30.0  # seconds; ours: how often a console that is no terminal, such as a scheduler's log, gets a line


class RunLog:
    """A context that records scalars and pictures of one run in `folder`.

    `log.jsonl` holds one object per record, strict JSON; `pictures` holds PNG files. A resumed run first drops what was
    recorded of the steps that it will repeat. `wandb`: a project of Weights & Biases to send both to; without it
    nothing reaches for the network. Raises TrainingError if that is not installed or cannot start.
    """

    def __init__(self, folder: Path, total_steps: int, first_step: int, quiet: bool = False, wandb: str | None = None):
        self.folder, self.total_steps, self.quiet = folder, total_steps, quiet
        # First, since it may fail, with the old records in their place.
        sinks = [None if wandb is None else _WeightsAndBiases(wandb, folder, first_step, quiet)]
        self.sinks = [sink for sink in (*sinks, _tensorboard(folder, first_step)) if sink is not None]
        _drop_records_from(folder / "log.jsonl", first_step)
        _drop_pictures_from(folder / "pictures", first_step)
        self.file = open(folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed on exit
        self.progress = _Bar(
            TextColumn("[bold]{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), expand=True
        )
        self.progress.disable = quiet or not self.progress.console.is_terminal
        self.task = self.progress.add_task("train", total=total_steps, completed=first_step, shown="")
        self.line_due = -math.inf

    def __enter__(self) -> "RunLog":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.file.close()
        stopped = isinstance(error, SystemExit) and not error.code  # asked to, and to be gone on with
        for sink in self.sinks:
            sink.close(failed=error is not None and not stopped)

    def say(self, text: str) -> None:
        """Print a line, unless the run is to be quiet."""
        if not self.quiet:
            self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int) -> None:
        """Move the bar to `step` finished steps."""
        self.progress.update(self.task, completed=step)

    def scalars(self, step: int, values: dict[str, float | Tensor]) -> None:
        """Record named scalars after `step` finished steps.

        A non-finite one is written as null, and what it was under `non_finite`. The console shows the names without a
        "/", and the pace: `steps/s`, `images/s`, and `data_wait`, the share of time that the loop waited for batches.
        """
        plain = _plain(values)
        finite = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        wrong = {name: str(value) for name, value in plain.items() if not math.isfinite(value)}
        record = {"step": step, **finite, **({"non_finite": wrong} if wrong else {})}
        self.file.write(json.dumps(record, allow_nan=False) + "\n")
        self.file.flush()
        for sink in self.sinks:
            sink.scalars(step, plain)
        self._show(step, _line(plain, self.total_steps - step))

    def picture(self, step: int, name: str, picture: Float[Tensor, "3 H W"]) -> None:
        """Record a picture (in [0, 1]) after `step` finished steps: `pictures/step_00000500_<name>.png`, and beside the
        scalars."""
        name_of_file = re.sub(r"[^\w.-]+", "_", f"step_{step:08d}_{name}")
        save_png(self.folder / "pictures" / f"{name_of_file}.png", picture)
        for sink in self.sinks:
            sink.picture(step, name, picture)

    @property
    def draws(self) -> bool:
        """Whether pictures can be recorded, so that none is drawn for nothing: their files need Pillow."""
        return importlib.util.find_spec("PIL") is not None

    def _show(self, step: int, line: str) -> None:
        self.progress.update(self.task, shown=line)
        if self.quiet or not self.progress.disable:
            return
        if time.monotonic() >= self.line_due or step >= self.total_steps:
            self.line_due = time.monotonic() + LINE_EVERY
            where = f"step {step}/{self.total_steps}  {line}"
            self.progress.console.print(where, markup=False, highlight=False, soft_wrap=True)


class _Bar(Progress):
    """A bar as wide as the terminal, and below it, wrapped, what its tasks show."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["shown"])


class _TensorBoard:
    """Scalars and pictures in event files, for `tensorboard --logdir`."""

    def __init__(self, writer: Any):
        self.writer = writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        self.writer.add_image(name, to_bytes(picture).numpy(), step, dataformats="HWC")

    def close(self, failed: bool) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """Scalars and pictures in a run of Weights & Biases, which a resumed run goes on with."""

    def __init__(self, project: str, folder: Path, first_step: int, quiet: bool):
        try:
            import wandb
        except ImportError as error:
            raise TrainingError(
                f"the run is to be sent to the Weights & Biases project {project!r}, but the package wandb is not "
                "installed; install it: pip install 'flow3r[wandb]', or train without it"
            ) from error
        self.image = wandb.Image
        remembered, config = folder / "wandb_run.txt", folder / "config.json"
        if first_step == 0 or not remembered.exists():
            write_text(remembered, uuid.uuid4().hex[:12])
        try:
            self.run = wandb.init(
                project=project,
                name=folder.resolve().name,
                id=remembered.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(folder),
                config=json.loads(config.read_text(encoding="utf-8")) if config.exists() else None,
                settings={"silent": quiet},
            )
        except wandb.Error as error:
            raise TrainingError(
                f"Weights & Biases did not start for project {project!r} ({error}); log in (wandb login), or set "
                "WANDB_MODE=offline to send the run later, or train without it"
            ) from error

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def picture(self, step: int, name: str, picture: Tensor) -> None:
        self.run.log({name: self.image(to_bytes(picture).numpy())}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


def _tensorboard(folder: Path, first_step: int) -> _TensorBoard | None:
    try:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return _TensorBoard(SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None))


def _plain(values: dict[str, float | Tensor]) -> dict[str, float]:
    """As numbers; those of one device are read together, so that it is waited for once."""
    tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    read: dict[str, float] = {}
    for device in {tensor.device for tensor in tensors.values()}:
        there = {name: tensor for name, tensor in tensors.items() if tensor.device == device}
        read |= zip(there, torch.stack([tensor.reshape(()) for tensor in there.values()]).tolist())
    return {name: float(read.get(name, values[name])) for name in values}


def _line(values: dict[str, float], steps_left: int) -> str:
    """The console's line: pace, time left, and the values without a "/" in their names."""
    # Three digits, and 1230 rather than 1.23e+03.
    pace = [f"{float(f'{values[name]:.3g}'):g} {name}" for name in ("steps/s", "images/s") if name in values]
    if "data_wait" in values:
        pace.append(f"{values['data_wait']:.0%} waiting for data")
    if values.get("steps/s", 0) > 0:
        pace.append(f"{timedelta(seconds=round(steps_left / values['steps/s']))} left")
    shown = [f"{name} {value:.4g}" for name, value in values.items() if "/" not in name and name != "data_wait"]
    return "  ".join(shown + pace)


def _drop_records_from(path: Path, first_step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= first_step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            break  # the line that a kill cut short; nothing follows it
    write_text(path, "".join(kept))


def _drop_pictures_from(folder: Path, first_step: int) -> None:
    for path in folder.glob("step_*_*.png"):
        if int(path.name.split("_")[1]) > first_step:
            path.unlink()
