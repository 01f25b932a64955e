"""What is measured on what: held-out worlds, a folder of posed frames, the Motorcycle pair, and a teacher's labels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow3r.config import WorldsConfig
from flow3r.data.datasets.folder import CameraFolder
from flow3r.data.mixture import TRAINING_SEEDS, draw_pairs, stream
from flow3r.data.sampling import spread_indices
from flow3r.data.worlds import mean_relative_poses, render_worlds
from flow3r.errors import InputError
from flow3r.eval.frames import views_from_frames, with_exact_flow
from flow3r.eval.measures import evaluate_rows, flow_values, scene_name
from flow3r.eval.motorcycle import motorcycle_frames
from flow3r.eval.predictors import Predictor, fixed_poses, identity, model_predictor, truth
from flow3r.eval.report import Report, Row, Score
from flow3r.geometry.rigid import predicted_intrinsics
from flow3r.metrics.epipolar import epipolar_errors, median_errors, rigid_pixels, sampson_distance
from flow3r.metrics.flow import flow_errors, homography_flow
from flow3r.types import Views

SCENES_PER_BATCH = 4
LEAST_PAIRS = 20  # ours: fewer labelled pairs than this and the report says so
POINT_BUDGET = 10_000  # ours: nearest neighbours of all points of a wrong cloud take minutes
TOKENS = (64, 96)  # of one image; the range that nano is trained for
HELD_OUT = WorldsConfig(held_out=True)
HOMOGRAPHY, FUNDAMENTAL = "homography per pair", "fundamental per pair"  # rows that are fitted to the labels themselves


def rows_to_compare(model: nn.Module, name: str, views: int, trivial_rows: bool) -> dict[str, Predictor]:
    """The model and, if asked for, the three rows that tell what its numbers are worth."""
    rows: dict[str, Predictor] = {name: model_predictor(model)}
    if trivial_rows:
        rows |= {
            "identity pose": identity,
            "mean training pose": fixed_poses(mean_training_poses(views)),
            "ground truth": truth,
        }
    return rows


@lru_cache(maxsize=8)
def mean_training_poses(views: int) -> Float[Tensor, "N 4 4"]:
    """World-from-camera poses, each at the mean training pose of its frame gap to the first, over 1,000 worlds."""
    return torch.cat([torch.eye(4)[None], mean_relative_poses(views)])


@dataclass(frozen=True)
class Scenes:
    """Labelled scenes to measure on: made once where `batches` are a tuple, or as they are asked for."""

    title: str
    batches: Iterable[Views]
    settings: dict[str, Any]
    remarks: tuple[str, ...] = ()
    point_budget: int | None = POINT_BUDGET
    groups: tuple[str, ...] = ("pose", "points", "depth", "flow")  # of measures that the labels allow

    def evaluate(self, model: nn.Module, *, name: str = "model", trivial_rows: bool = True) -> Report:
        """Everything that the labels allow to be measured of a model, with the trivial rows if asked for."""
        rows = rows_to_compare(model, name, self.settings["views"], trivial_rows)
        return Report(self.title, evaluate_rows(rows, self.batches, self.point_budget), self.settings, self.remarks)

    def kept(self) -> "Scenes":
        """The same with all batches made now, to be measured on more than once."""
        return replace(self, batches=tuple(self.batches))


def worlds(
    *,
    scenes: int = 64,
    views: int = 4,
    size: tuple[int, int] = (112, 112),
    pairs: int = 4,
    seed: int = 0,
    config: WorldsConfig = HELD_OUT,
    point_budget: int | None = POINT_BUDGET,
) -> Scenes:
    """Procedural worlds that no training run has seen: seeds from 2**40 on.

    `size` (H, W) suits the model's patch; `pairs` ordered pairs of every scene are drawn for the flow; `point_budget`
    limits the points whose nearest neighbours are sought (None: all). Scene k of a seed is the same whatever the number
    of scenes.
    """
    batches = held_out_worlds(scenes=scenes, views=views, size=size, pairs=pairs, seed=seed, config=config)
    settings = {"scenes": scenes, "views": views, "size": list(size), "pairs": pairs, "seed": seed}
    settings |= {"point_budget": point_budget, "held_out": config.held_out}
    title = "held-out worlds" if config.held_out else "worlds"
    return Scenes(title, batches, settings, _remarks(views, labelled=True), point_budget)


def evaluate_worlds(model: nn.Module, *, name: str = "model", trivial_rows: bool = True, **options: Any) -> Report:
    """Pose, points, depth and flow on worlds that no training run has seen; options as of `worlds`."""
    return worlds(**options).evaluate(model, name=name, trivial_rows=trivial_rows)


def _remarks(views: int, labelled: bool) -> tuple[str, ...]:
    """What so many views, with or without depth, do not tell."""
    remarks = () if labelled else ("no depth: points, depth and flow are not measured",)
    if views == 2:
        remarks += ("two cameras: a similarity fits any two centres, so that there is no ATE or RPE",)
    if views == 3:
        remarks += ("three cameras: a similarity fits most of their 9 coordinates, so that ATE says little",)
    return remarks


def held_out_worlds(
    *, scenes: int, views: int, size: tuple[int, int], pairs: int, seed: int, config: WorldsConfig = HELD_OUT
) -> Iterator[Views]:
    """Batches of worlds whose seeds no training run draws, with exact flow for drawn pairs."""
    for first in range(0, scenes, SCENES_PER_BATCH):
        seeds = [TRAINING_SEEDS + seed * 2**20 + k for k in range(first, min(first + SCENES_PER_BATCH, scenes))]
        chosen = torch.cat([draw_pairs(1, views, pairs, stream(s, 0, "evaluation pairs")) for s in seeds])
        worlds = render_worlds(seeds, views, size, config=config, pairs=chosen)
        yield replace(worlds.views, names=tuple((f"world {s}",) * views for s in seeds))


def folder(
    path: str | Path, *, frames: int = 8, tokens: tuple[int, int] = TOKENS, point_budget: int | None = POINT_BUDGET
) -> Scenes:
    """A folder with `cameras.json`: `frames` of its frames, evenly spread.

    Pose needs the cameras alone; points, depth and flow (of all pairs i < j, taken as static) need depth too. What is
    missing is named in the remarks. Raises InputError for a folder that cannot be read or has fewer than two frames.
    """
    posed = CameraFolder(Path(path))
    indices = spread_indices(len(posed), frames)
    if len(indices) < 2:
        raise InputError(f"{path}: {len(indices)} of {len(posed)} posed frames to measure, at least two are needed")
    views = views_from_frames(list(posed.frames(indices)), tokens)
    if views.depth is not None:
        views = with_exact_flow(views, _every_pair(len(indices)))
    return _one_scene(replace(views, names=((posed.name,) * len(indices),)), point_budget)


def evaluate_folder(
    model: nn.Module, path: str | Path, *, name: str = "model", trivial_rows: bool = True, **options: Any
) -> Report:
    """Everything that a folder with `cameras.json` allows to be measured; options as of `folder`."""
    return folder(path, **options).evaluate(model, name=name, trivial_rows=trivial_rows)


def motorcycle(*, tokens: tuple[int, int] = TOKENS, point_budget: int | None = POINT_BUDGET) -> Scenes:
    """The real stereo pair of scikit-image's wheel: pose, the left image's points and depth, flow left to right.

    Raises InputError where scikit-image or its data are absent.
    """
    views = with_exact_flow(views_from_frames(motorcycle_frames(), tokens), _every_pair(2))
    measured = views.depth.clone()
    measured[:, 1] = 0.0
    return _one_scene(replace(views, depth=measured, names=(("Motorcycle",) * 2,)), point_budget)


def evaluate_motorcycle(model: nn.Module, *, name: str = "model", trivial_rows: bool = True, **options: Any) -> Report:
    """The real stereo pair; options as of `motorcycle`."""
    return motorcycle(**options).evaluate(model, name=name, trivial_rows=trivial_rows)


def _every_pair(views: int) -> Int[Tensor, "1 P 2"]:
    return torch.triu_indices(views, views, 1).T[None].contiguous()


def _one_scene(views: Views, point_budget: int | None) -> Scenes:
    count = views.images.shape[1]
    size = list(views.images.shape[-2:])
    settings = {"scene": scene_name(views, 0), "views": count, "size": size, "point_budget": point_budget}
    scenes = Scenes(scene_name(views, 0), (views,), settings, _remarks(count, views.labelled), point_budget)
    return scenes if views.labelled else replace(scenes, groups=("pose",))


def evaluate_labels(
    model: nn.Module,
    clips: Iterable[Views],
    *,
    name: str = "model",
    title: str = "labels",
    trivial_rows: bool = True,
) -> Report:
    """Flow against a teacher's labels, and cameras against its matches, pair by pair: no ground truth is needed.

    `clips` are views with flow labels. Beside the model stand zero flow (identity pose), the best homography of every
    pair fitted to the teacher's own flow, and the fundamental matrix fitted to its matches, which is the floor of the
    Sampson error. That error is measured on pixels that move rigidly, the same for every model.
    """
    predictors: dict[str, Predictor] = {name: model_predictor(model)}
    if trivial_rows:
        predictors |= {"zero flow": identity}
    fitted = (HOMOGRAPHY, FUNDAMENTAL) if trivial_rows else ()
    rows: dict[str, list[Score]] = {key: [] for key in (*predictors, *fitted)}
    for views in clips:
        predictions = {key: predictor(views) for key, predictor in predictors.items()}
        for scene in range(len(views.images)):
            _score_labels(rows, predictions, views, scene)
    measured = sum(bool(score.values) for score in rows[name])
    remarks = (f"only {measured} labelled pairs: too few for a firm number",) if measured < LEAST_PAIRS else ()
    settings = {"pairs": len(rows[name]), "first": rows[name][0].sequence if rows[name] else ""}
    return Report(title, tuple(Row(key, tuple(scores)) for key, scores in rows.items()), settings, remarks)


def _score_labels(rows: dict[str, list[Score]], predictions: dict, views: Views, scene: int) -> None:
    """Append one score per pair of one scene to every row."""
    flow = views.flow
    pairs, displacement = flow.pairs[scene], flow.displacement[scene]
    covisible = None if flow.covisible is None else flow.covisible[scene]
    rigid = rigid_pixels(displacement, covisible)
    cameras = {key: (p.world_from_camera[scene], predicted_intrinsics(p)[scene]) for key, p in predictions.items()}
    flows = {key: p.flow.displacement[scene] for key, p in predictions.items()}
    if HOMOGRAPHY in rows:
        flows[HOMOGRAPHY] = homography_flow(displacement, covisible)
        fitted = sampson_distance(rigid.fundamental, displacement)
    for k, (source, target) in enumerate(pairs.tolist()):
        one = slice(k, k + 1)
        sequence = " -> ".join(str(v) if views.names is None else views.names[scene][v] for v in (source, target))
        for row in rows:
            values: dict[str, float] = {}
            if row in flows:
                errors = flow_errors(flows[row][one], displacement[one], None if covisible is None else covisible[one])
                values |= {} if errors is None else flow_values(errors)
            if row in cameras:
                epipolar = epipolar_errors(displacement[one], rigid.mask[one], pairs[one], *cameras[row])
            else:
                static = torch.zeros(1, dtype=torch.bool)
                epipolar = median_errors(fitted[one], rigid.mask[one], static)
            if epipolar is not None and row != HOMOGRAPHY:
                values["sampson"] = epipolar.median
            reason = rigid.refusals[k].split(":")[0]
            notes = {f"no Sampson error: {reason}": 1} if reason else {}
            rows[row].append(Score(sequence, values, notes))
