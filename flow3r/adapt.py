"""Make a model better on one's own footage: label it with a teacher, learn from its flow beside worlds, and measure."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from flow3r.config import TrainConfig
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.video import content_sha256, list_sources, open_source
from flow3r.errors import InputError, LabelStoreError
from flow3r.eval.report import COLUMNS, Report, as_json, compare, to_text
from flow3r.eval.scenes import LEAST_PAIRS
from flow3r.eval.validation import CLIP, FEW_PAIRS, Benchmark, HeldOutPairs, Validation, held_out_worlds
from flow3r.files import write_json, write_text
from flow3r.model.checkpoints import Model, find_weights, load_model
from flow3r.nn.precision import choose_device
from flow3r.presets import NANO_MODEL, adaptation
from flow3r.teacher import teacher_called
from flow3r.teacher.label import LabelSummary, Source, label_videos, provenance
from flow3r.train.loop import TrainResult, train

HELD_OUT = 0.2  # ours: last share of every shot that adaptation never sees
WORLDS = 24  # ours: held-out worlds that show forgetting
MOST_PAIRS = 256  # ours: held-out pairs of the report; a homography of each is fitted, at 0.1 s
BEST_BY = f"{CLIP}/aepe"  # of held-out pairs: the error of what is learnt from
VALIDATE_EVERY = 100  # ours: steps, about a minute of nano's on two cores
PATIENCE = 5  # ours: validations without a better one
WORSE = 0.1  # ours: share of a measure of held-out worlds beyond which a warning is given
WATCHED = ("auc@30", "abs_rel")  # of held-out worlds: pose and depth
SAID = "adapt.json"  # in the output folder: what a restarted adaptation must have in common


def label(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    teacher: str = "classical",
    tokens: tuple[int, int] = NANO_MODEL.tokens,
    progress: bool = True,
) -> LabelSummary:
    """Label videos with a teacher known by name into the store `out`, on a grid with a number of patches in `tokens`.

    A folder of videos stands for all of them. Raises InputError for an unknown teacher, and without a video.
    """
    return label_videos(list_sources(videos), out, teacher_called(teacher), tokens=tokens, progress=progress)


@dataclasses.dataclass(frozen=True)
class AdaptResult:
    """A finished adaptation: the model that was best on held-out pairs (in evaluation mode), where its weights lie,
    what was labelled, the run, reports whose first rows are the model before and after, and warnings, a line each."""

    model: Model
    weights: Path
    labels: LabelSummary
    run: TrainResult
    reports: tuple[Report, ...]
    warnings: tuple[str, ...]

    @property
    def steps(self) -> int:
        return self.run.steps


class Adaptation:
    """Footage, and a model that is made better on it: `label`, `measure`, `train`, `measure` again, `finish`.

    Everything lies in the folder `out`, from where the same adaptation goes on if it was stopped. Raises InputError for
    a model without a flow head, a share `held_out` out of [0, 1), a folder of another adaptation; LabelStoreError if
    its labels are of other videos, which it names.
    """

    def __init__(
        self,
        videos: Sequence[str | Path],
        out: str | Path,
        *,
        model: str | Path = "nano",
        teacher: str = "classical",
        held_out: float = HELD_OUT,
        worlds: int = WORLDS,
        device: torch.device | str | None = None,
    ):
        self.out, self.held_out, self.worlds = Path(out), held_out, worlds
        if not 0 <= held_out < 1:
            raise InputError(f"held out is {held_out:g} of every shot; expected a share from 0 to less than 1")
        self.teacher = teacher_called(teacher)
        self.start, self.device = find_weights(model), choose_device(device)
        self.network: Model = load_model(self.start).to(self.device)
        if self.network.config.flow is None:
            raise InputError(f"{self.start} has no flow head; expected one, since it is flow that footage teaches")
        self.sources = list_sources(videos)
        self._remember()
        _check_only_these(self.out / "labels", self.sources)

    def _remember(self) -> None:
        """Refuse a folder whose held-out frames would be others than those that its run has not seen."""
        path = self.out / SAID
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}); choose another folder") from error
        if before != self._said:
            changed = [key for key in {**before, **self._said} if before.get(key) != self._said.get(key)]
            kept, wanted = (", ".join(f"{key} {each.get(key)}" for key in changed) for each in (before, self._said))
            raise InputError(
                f"{path}: made with {kept}; asked for {wanted}; go on with the same, or choose another folder"
            )

    @property
    def _said(self) -> dict[str, Any]:
        return {"held out": self.held_out, **provenance(self.teacher)}

    def label(self, progress: bool = True) -> LabelSummary:
        """Label what is not labelled yet. Raises InputError if no video could be read, LabelStoreError if no pair of
        frames is left to learn from."""
        tokens = self.network.config.tokens
        summary = label_videos(self.sources, self.out / "labels", self.teacher, tokens=tokens, progress=progress)
        self.summary = summary
        if len(summary.failures) == summary.sources:
            raise InputError(summary.failures[0][1])
        self.clips = LabelClips(LabelStore(self.out / "labels"), self.held_out)
        patch = self.network.config.encoder.patch
        self.benchmarks: dict[str, Benchmark] = {
            CLIP: HeldOutPairs(self.clips, MOST_PAIRS, "held-out pairs" + " of the clip" * (len(self.sources) == 1)),
            "worlds": held_out_worlds(tokens, patch, scenes=self.worlds),
        }
        return summary

    def measure(self, model: Model, *, trivial_rows: bool = True) -> tuple[Report, ...]:
        """A report of each of `benchmarks`: held-out pairs, held-out worlds, and what else was put there."""
        return tuple(b.evaluate(model, trivial_rows=trivial_rows) for b in self.benchmarks.values())

    def train(
        self,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        quiet: bool = False,
        on_step: Callable[[int, float], None] | None = None,
    ) -> TrainResult:
        """Fine-tune by steps or by wall time, until held-out pairs get no better."""
        config, validation = self._config(steps), None
        if self.clips.held_out_count:
            config = dataclasses.replace(config, best_by=BEST_BY, patience=PATIENCE, validate_every=VALIDATE_EVERY)
            validation = Validation({CLIP: HeldOutPairs(self.clips, FEW_PAIRS)})
        write_json(self.out / SAID, self._said)
        return train(
            config,
            self.out,
            clips=self.clips,
            validation=validation,
            device=self.device,
            seconds=seconds,
            quiet=quiet,
            on_step=on_step,
        )

    def _config(self, steps: int | None) -> TrainConfig:
        config = adaptation(self.network.config, str(self.start))
        return config if steps is None else dataclasses.replace(config, steps=steps)

    def finish(
        self, run: TrainResult, before: Sequence[Report], names: tuple[str, str] = ("before", "after")
    ) -> AdaptResult:
        """Measure the model that the run found best, or ended with where there was nothing to judge by.

        Puts the reports side by side, says what is to be warned of, writes `report.json` and `report.md`.
        """
        weights = run.best or run.weights
        model = run.model if run.best is None else load_model(run.best).to(self.device)
        after = self.measure(model, trivial_rows=False)
        reports = tuple(compare(b, a, names) for b, a in zip(before, after, strict=True))
        by_name = dict(zip(self.benchmarks, reports, strict=True))
        failures = tuple(f"left out, since it could not be labelled: {error}" for _, error in self.summary.failures)
        warnings = (*failures, *self._on_pairs(by_name[CLIP]), *worse_worlds(by_name["worlds"]))
        result = AdaptResult(model, weights, self.summary, run, reports, warnings)
        value = {
            "labels": {"pairs to learn from": self.clips.training_count, "held out": self.clips.held_out_count},
            "run": {"steps": run.steps, "seconds": round(run.seconds, 1), "best step": run.best_step},
            "weights": weights.name,
            "warnings": list(warnings),
            "reports": {name: as_json(report) for name, report in by_name.items()},
        }
        write_json(self.out / "report.json", value)
        write_text(self.out / "report.md", as_markdown(result))
        return result

    def _on_pairs(self, pairs: Report) -> tuple[str, ...]:
        """What is to be said of held-out pairs: too few, or no better."""
        count = self.clips.held_out_count
        if not count:
            return ("no pair is held out: nothing tells whether the footage is understood better, nor when to stop",)
        few = f"{count} held-out pairs are too few to judge by, expected at least {LEAST_PAIRS}: give more footage, or "
        warnings = (f"{few}hold out more than the last {self.held_out:g} of every shot",) if count < LEAST_PAIRS else ()
        before, after = (row.mean("aepe") for row in pairs.rows[:2])
        if before is not None and after is not None and after >= before:
            warnings += (f"held-out pairs got no better: AEPE {before:.2f} px before, {after:.2f} px after",)
        return warnings


def adapt(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "nano",
    teacher: str = "classical",
    held_out: float = HELD_OUT,
    worlds: int = WORLDS,
    steps: int | None = None,
    seconds: float | None = None,
    device: torch.device | str | None = None,
    quiet: bool = False,
    on_step: Callable[[int, float], None] | None = None,
) -> AdaptResult:
    """Label `videos` into `out`/labels and fine-tune `model` on them in `out`, by `steps` or by wall time `seconds`.

    A folder of videos stands for all of them. The last share `held_out` of every shot is kept from training; by its
    pairs the best weights are chosen (`best.safetensors`), and the run is ended when they get no better. Before and
    after are measured on them and on so many `worlds`, in `report.json` and `report.md`. Started again, the same call
    goes on where it was stopped. Raises as `Adaptation`.
    """
    work = Adaptation(videos, out, model=model, teacher=teacher, held_out=held_out, worlds=worlds, device=device)
    work.label(progress=not quiet)
    before = work.measure(work.network)
    run = work.train(steps=steps, seconds=seconds, quiet=quiet, on_step=on_step)
    return work.finish(run, before)


def worse_worlds(report: Report) -> tuple[str, ...]:
    """A line for each of WATCHED that is worse in a report's second row than in its first: by more than WORSE of it,
    and by more than twice the standard error of the difference, so that a few worlds do not warn of chance."""
    lines = []
    before, after = report.rows[:2]
    for name in WATCHED:
        column, sign = COLUMNS[name], -1 if COLUMNS[name].better == "higher" else 1
        both = [(b.values[name], a.values[name]) for b, a in zip(before.scores, after.scores) if name in b.values]
        if len(both) < 2:
            continue
        losses = [sign * (second - first) for first, second in both]
        error = stdev(losses) / len(losses) ** 0.5
        old, new = mean(first for first, _ in both), mean(second for _, second in both)
        if mean(losses) > max(WORSE * old, 2 * error):
            lines.append(
                f"held-out worlds got worse: {column.label} {old:.{column.digits}f} before, {new:.{column.digits}f} "
                f"after, over {len(both)} worlds (warned of from {WORSE:.0%} on, and twice the standard error): learn "
                "for fewer steps, or from more footage"
            )
    return tuple(lines)


def as_markdown(result: AdaptResult) -> str:
    """Warnings, then every table."""
    lines = [f"# {result.weights.name}, after {result.run.best_step or result.steps} of {result.steps} steps", ""]
    lines += [f"- **Warning:** {warning}" for warning in result.warnings]
    tables = [f"\n```\n{to_text(report).rstrip()}\n```" for report in result.reports]
    return "\n".join(lines + tables) + "\n"


def _check_only_these(folder: Path, sources: Sequence[Source]) -> None:
    """Raises LabelStoreError if a store, if there is one, holds labels of others than these sources."""
    if not folder.exists():
        return
    store, given = LabelStore(folder), set()
    for source in sources:
        try:
            given.add(content_sha256(open_source(source)))
        except InputError:
            continue  # the labelling job will say so
    others = sorted({segment.source for segment in store.segments() if segment.source_sha256 not in given})
    if others:
        named = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise LabelStoreError(
            f"{folder}: holds labels of {len(others)} videos that are not given ({named}), by the SHA-256 of their "
            "content; give them too, or choose another output folder"
        )
