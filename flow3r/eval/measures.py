"""Predict, then score: one path for every benchmark, for models and for the trivial rows alike."""

from collections.abc import Iterable

from flow3r.eval.predictors import Predictor
from flow3r.eval.report import Row, Score
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.metrics.depth import depth_errors
from flow3r.metrics.flow import PIXEL_THRESHOLDS, WIDTH_THRESHOLDS, FlowErrors, flow_errors
from flow3r.metrics.points import PointErrors, point_errors
from flow3r.metrics.pose import THRESHOLDS, pair_scores, relative_pose_errors, trajectory_errors
from flow3r.types import Prediction, Views

STATIC_BASELINE = 1e-3  # of s; spec: a shorter true baseline has no direction worth scoring


def evaluate_rows(predictors: dict[str, Predictor], batches: Iterable[Views], budget: int | None) -> tuple[Row, ...]:
    """Score every predictor on every scene of every batch; `budget` limits the points whose neighbours are sought."""
    scores: dict[str, list[Score]] = {name: [] for name in predictors}
    for views in batches:
        for name, predictor in predictors.items():
            prediction = predictor(views)
            scores[name] += [score_scene(prediction, views, scene, budget) for scene in range(len(views.images))]
    return tuple(Row(name, tuple(values)) for name, values in scores.items())


def scene_name(views: Views, scene: int) -> str:
    """A scene's name in reports: that of its first view, or its number in the batch."""
    return str(scene) if views.names is None else views.names[scene][0]


def score_scene(prediction: Prediction, views: Views, scene: int, budget: int | None = None) -> Score:
    """Everything that the labels of one scene of a batch allow to be measured: points and depth, pose, flow."""
    values: dict[str, float] = {}
    notes: dict[str, int] = {}
    degenerate, unit = False, 0.0
    if views.depth is not None:
        points, unit = _points(prediction, views, scene, budget, notes)
        values |= points
    if views.world_from_camera is not None:
        pose, degenerate = _pose(prediction, views, scene, STATIC_BASELINE * unit, notes)
        values |= pose
    if views.flow is not None and prediction.flow is not None:
        values |= _flow(prediction, views, scene, notes)
    return Score(scene_name(views, scene), values, notes, degenerate)


def _points(
    prediction: Prediction, views: Views, scene: int, budget: int | None, notes: dict[str, int]
) -> tuple[dict[str, float], float]:
    """Point and depth errors, and s, the truth's spread. Unknown depth and sky (depth 0) are left out."""
    depth = views.depth[scene]
    known = depth > 0 if views.valid is None else (depth > 0) & views.valid[scene]
    truth = transform_maps(views.world_from_camera[scene], unproject(depth, views.intrinsics[scene]))
    errors = point_errors(prediction.world_points[scene], truth, known, budget)
    depths = depth_errors(prediction.local_points[scene, ..., 2], depth, known)
    _note(notes, f"points failed: {errors.failed}", bool(errors.failed))
    _note(notes, f"depth failed: {depths.failed}", bool(depths.failed))
    _note(notes, "predicted points are not finite", round(errors.dropped * int(known.sum())))
    return point_values(errors) | {"abs_rel": depths.abs_rel, "delta": depths.delta}, errors.scale


def point_values(errors: PointErrors) -> dict[str, float]:
    """The columns of point errors."""
    return {
        "mse": errors.mse,
        "accuracy": errors.accuracy,
        "completeness": errors.completeness,
        "chamfer": errors.chamfer,
        "f@2": errors.f2,
        "f@5": errors.f5,
    }


def _pose(
    prediction: Prediction, views: Views, scene: int, least_baseline: float, notes: dict[str, int]
) -> tuple[dict[str, float], bool]:
    """Pair and trajectory errors, and whether the true trajectory is degenerate."""
    predicted, true = prediction.world_from_camera[scene], views.world_from_camera[scene]
    pairs = pair_scores(relative_pose_errors(predicted, true, least_baseline))
    values = {f"rra@{threshold}": share for threshold, share in zip(THRESHOLDS, pairs.rra)}
    values |= {f"rta@{threshold}": share for threshold, share in zip(THRESHOLDS, pairs.rta)}
    values |= {f"rta_signed@{THRESHOLDS[-1]}": pairs.rta_signed[-1], "auc@30": pairs.auc}
    _note(notes, "true baselines are shorter than 0.1 % of the scene", pairs.static_pairs)
    _note(notes, "pairs have a predicted pose that is not finite", pairs.failed_pairs)
    trajectory = trajectory_errors(predicted, true)
    if trajectory is None:
        return values, False
    for reason in trajectory.degenerate:
        _note(notes, reason, 1)
    values |= {"ate": trajectory.ate, "rpe_translation": trajectory.rpe_translation}
    degenerate = any(reason.startswith("truth") for reason in trajectory.degenerate)
    return values | {"rpe_rotation": trajectory.rpe_rotation}, degenerate


def _flow(prediction: Prediction, views: Views, scene: int, notes: dict[str, int]) -> dict[str, float]:
    covisible = None if views.flow.covisible is None else views.flow.covisible[scene]
    errors = flow_errors(prediction.flow.displacement[scene], views.flow.displacement[scene], covisible)
    if errors is None:
        _note(notes, "pairs without covisible pixels are left out", len(views.flow.pairs[scene]))
        return {}
    _note(notes, "pairs without covisible pixels are left out", errors.skipped)
    _note(notes, "sequences have predicted flow that is not finite", int(errors.failed > 0))
    return flow_values(errors)


def _note(notes: dict[str, int], text: str, count: int) -> None:
    """Count an oddity, if there is one."""
    if count:
        notes[text] = notes.get(text, 0) + int(count)


def flow_values(errors: FlowErrors) -> dict[str, float]:
    """The columns of flow errors."""
    values = {"aepe": errors.aepe, "aepe_of_diagonal": errors.aepe_of_diagonal}
    values |= {f"within_{threshold}px": share for threshold, share in zip(PIXEL_THRESHOLDS, errors.within_pixels)}
    return values | {f"within_{round(100 * t)}%": share for t, share in zip(WIDTH_THRESHOLDS, errors.within_width)}
