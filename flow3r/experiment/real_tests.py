"""Real sequences with ground truth as the test of the real domain: four frames at a time, seen as squares.

The frames are drawn as those of one's own posed folders are (eval/benchmarks/own_rows.py), but four, as of the worlds.
A sequence is one world of the experiments: its value of a measure is the mean over its draws.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from flow3r.data.frame import Frame
from flow3r.data.sampling import ordered_pairs
from flow3r.errors import InputError
from flow3r.eval.benchmarks.manifests import Manifest, make_manifest
from flow3r.eval.benchmarks.own_rows import FOLDERS
from flow3r.eval.benchmarks.samplings import Strides
from flow3r.eval.frames import labels_on_grid, views_from_frames, with_exact_flow
from flow3r.eval.measures import score_scene
from flow3r.eval.methods import Method
from flow3r.eval.predictors import Predictor
from flow3r.eval.truth import no_prediction
from flow3r.experiment.real_clips import PATCHES, Squares
from flow3r.experiment.scores import POINT_BUDGET, Measures
from flow3r.experiment.sources import VIEWS
from flow3r.metrics.pose import relative_pose_errors
from flow3r.types import Prediction, Views

REAL = replace(FOLDERS, name="real", title="Real sequences", sampling=Strides((1, 2, 4, 8, 16), VIEWS, fewest=2))
# The measures of the experiments, and what benchmarks call them. One is null where a sequence lacks its label.
MEASURES = {
    **{name: name for name in ("rra@5", "rra@15", "rra@30", "rta@5", "rta@15", "rta@30", "auc@5", "auc@30")},
    "mse": "mse",
    "cd": "chamfer",
    "abs_rel": "abs_rel",
    "aepe": "aepe",
    "5px": "within_5px",
}
ROTATION = "rotation"  # mean error of pairs in degrees
DRAWS = 10  # ours: of each sequence; twice those of a benchmark, since two of eight sequences alone are long

Values = dict[str, float]


@dataclass(frozen=True)
class RealTests:
    """The draws of real sequences that are measured, and the sequences by name."""

    manifest: Manifest
    sequences: Mapping[str, Squares]

    @property
    def names(self) -> tuple[str, ...]:
        """The sequences that are measured, in the order of every list of values."""
        return tuple(dict.fromkeys(draw.sequence for draw in self.manifest.draws))

    def lines(self) -> Iterator[str]:
        """What is said to people."""
        yield f"tested on {len(self.names)} sequences, {len(self.manifest.draws)} draws: {', '.join(self.names)}"
        yield from (f"not tested: {name}: {why}" for name, why in self.manifest.left_out.items())

    def frames(self, name: str, indices: tuple[int, ...]) -> list[Frame]:
        """Squares with their labels."""
        return list(self.sequences[name].frames(indices))

    @cached_property
    def scenes(self) -> dict[tuple[str, tuple[int, ...]], Views]:
        """Every set of frames that is drawn, once, as a model sees it; where depth is known, with the flow of a static
        scene for all ordered pairs."""
        drawn = dict.fromkeys((draw.sequence, draw.frames) for draw in self.manifest.draws)
        return {(name, indices): _views(self.frames(name, indices)) for name, indices in drawn}


def open_tests(folder: str | Path) -> RealTests:
    """The folders with a cameras.json in `folder`. Raises InputError where none of them can be measured."""
    at = Path(folder)
    sequences = {name: Squares(whole) for name, whole in REAL.select(at, at).sequences.items()}
    manifest = make_manifest(REAL, sequences, DRAWS)
    if not manifest.draws:
        said = "; ".join(f"{name}: {why}" for name, why in manifest.left_out.items())
        raise InputError(f"{folder}: no sequence can be measured: {said}")
    return RealTests(manifest, sequences)


def _views(frames: list[Frame]) -> Views:
    views = views_from_frames(frames, (PATCHES, PATCHES))
    return with_exact_flow(views, torch.tensor([ordered_pairs(len(frames))])) if views.labelled else views


def measured_on(tests: RealTests, predictor: Predictor, *, flow: bool = True) -> Measures:
    """What a predictor is worth; with `flow`, also that of its flow, where it predicts some."""

    def answered(name: str, indices: tuple[int, ...]) -> Values:
        views = tests.scenes[name, indices]
        views = views if flow else replace(views, flow=None)
        return scene_values(predictor(views), views)

    return _by_sequence(tests, answered)


def method_on(tests: RealTests, method: Method) -> Measures:
    """What a method is worth that chooses its own grid. Frames for which it raises InputError are scored worst."""

    def answered(name: str, indices: tuple[int, ...]) -> Values:
        frames = tests.frames(name, indices)
        try:
            sample = method([Frame(one.image, one.timestamp, one.name) for one in frames], ())
        except InputError:
            views = replace(tests.scenes[name, indices], flow=None)
            return scene_values(no_prediction(views), views)
        return scene_values(sample.prediction(), labels_on_grid(frames, sample.grid_from_image, sample.size))

    return _by_sequence(tests, answered)


def scene_values(prediction: Prediction, views: Views) -> Values:
    """The measures of one scene (B = 1) that its labels and the prediction allow."""
    found = score_scene(prediction, views, 0, POINT_BUDGET).values
    values = {name: found[key] for name, key in MEASURES.items() if key in found}
    errors = relative_pose_errors(prediction.world_from_camera[0], views.world_from_camera[0])
    return values | {ROTATION: errors.rotation.mean().item()}


def _by_sequence(tests: RealTests, answered: Callable[[str, tuple[int, ...]], Values]) -> Measures:
    """Mean over the draws of each sequence; draws of the same frames, as short ones have, are answered once."""
    known = {(name, indices): answered(name, indices) for name, indices in tests.scenes}
    drawn = {name: [known[name, d.frames] for d in tests.manifest.draws if d.sequence == name] for name in tests.names}
    return {
        measure: [_mean([values[measure] for values in drawn[name] if measure in values]) for name in tests.names]
        for measure in (*MEASURES, ROTATION)
        if any(measure in values for values in known.values())
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
