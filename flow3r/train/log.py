"""What a run leaves to look at: the console, one JSON line per record, TensorBoard where it is installed."""

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class RunLog:
    """A context that records scalars and images of one run in `folder`.

    `log.jsonl` holds one object per record, strict JSON; a resumed run first drops the records of the steps that it
    will repeat.
    """

    def __init__(self, folder: Path, total_steps: int, first_step: int, quiet: bool = False):
        self.path = folder / "log.jsonl"
        _drop_records_from(self.path, first_step)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed on exit
        self.board = _tensorboard(folder, first_step)
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
            disable=quiet,
        )
        self.task = self.progress.add_task("train", total=total_steps, completed=first_step, shown="")

    def __enter__(self) -> "RunLog":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def advance(self, step: int) -> None:
        """Move the bar to `step` finished steps."""
        self.progress.update(self.task, completed=step)

    def scalars(self, step: int, values: dict[str, float | Tensor]) -> None:
        """Record named scalars after `step` finished steps; a non-finite one is written as null."""
        plain = {name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()}
        record: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        self.file.write(json.dumps({"step": step, **record}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in plain.items():
                self.board.add_scalar(name, value, step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in plain.items() if "/" not in name)
        self.progress.update(self.task, shown=shown)

    def image(self, step: int, name: str, image: Tensor) -> None:
        """Record an image (3 H W, in [0, 1]) on TensorBoard, if there is one."""
        if self.board is not None:
            self.board.add_image(name, image, step)

    @property
    def draws(self) -> bool:
        """Whether images go anywhere, so that none is drawn for nothing."""
        return self.board is not None


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
    path.write_text("".join(kept), encoding="utf-8")


def _tensorboard(folder: Path, first_step: int) -> Any:
    try:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else None)
