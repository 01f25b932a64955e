"""Make a model better on one's own footage: label it with a teacher, then learn from its flow beside worlds."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.errors import InputError
from flow3r.model.checkpoints import find_weights, load_model
from flow3r.presets import NANO_MODEL, adaptation
from flow3r.teacher import TEACHERS
from flow3r.teacher.label import LabelSummary, label_videos
from flow3r.train.loop import TrainResult, train


def label(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    teacher: str = "classical",
    tokens: tuple[int, int] = NANO_MODEL.tokens,
    progress: bool = True,
) -> LabelSummary:
    """Label videos with a teacher known by name into the store `out`, on a grid with a number of patches in `tokens`.

    Raises InputError for an unknown teacher.
    """
    if not videos:
        raise InputError("no video given; expected at least one video, image folder or glob")
    if teacher not in TEACHERS:
        raise InputError(f"no teacher is called {teacher!r}; expected one of {', '.join(TEACHERS)}")
    return label_videos(videos, out, TEACHERS[teacher](), tokens=tokens, progress=progress)


def adapt(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "nano",
    teacher: str = "classical",
    held_out: float = 0.0,
    steps: int | None = None,
    seconds: float | None = None,
    device: torch.device | str | None = None,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Label `videos` into `out`/labels and fine-tune `model` on them in `out`, by `steps` or by wall time `seconds`.

    The last share `held_out` of every shot is kept from training. Started again, the same call goes on where it was
    stopped. Raises InputError for a model without a flow head or if no video could be labelled, LabelStoreError if no
    pair of frames passed the gates.
    """
    out = Path(out)
    start = find_weights(model)
    config = adaptation(load_model(start).config, str(start))
    if config.model.flow is None:
        raise InputError(f"{start} has no flow head; expected one, since it is flow that footage teaches")
    summary = label(videos, out / "labels", teacher=teacher, tokens=config.model.tokens, progress=not quiet)
    if len(summary.failures) == summary.sources:
        raise InputError(summary.failures[0][1])
    clips = LabelClips(LabelStore(out / "labels"), held_out)
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    return train(config, out, clips=clips, device=device, seconds=seconds, quiet=quiet, on_step=on_step)
