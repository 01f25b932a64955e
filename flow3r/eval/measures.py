"""Predict, then score: one path for every benchmark, for models and for the trivial rows alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from flow3r.eval.predictors import Predictor
from flow3r.eval.report import Row, Score
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.metrics.curves import area_under_curve
from flow3r.metrics.depth import depth_errors
from flow3r.metrics.flow import PIXEL_THRESHOLDS, WIDTH_THRESHOLDS, FlowErrors, flow_errors
from flow3r.metrics.points import FLOW3R, PointErrors, PointProfile, point_errors_by_part, spread
from flow3r.metrics.pose import PairErrors, pair_scores, relative_pose_errors, trajectory_errors
from flow3r.types import Prediction, Views

DEFINITION = 1  # of all measures: raised whenever the same prediction would get another number
STATIC_BASELINE = 1e-3  # of s; ours: a shorter true baseline has no direction worth scoring
THRESHOLDS = (5, 10, 15, 30)  # degrees; the paper prints 30, π³ 5, 15 and 30
AUC_LIMITS = (5, 15, 30)  # degrees, π³; the paper prints 30
ALIGNMENTS = {  # of depth -> the end of its columns' names
    "scale": "",
    "scale_and_shift": "_scale_shift",
    "metric": "_metric",
    "median": "_median",  # per image: π³'s protocol for single images
}


@dataclass(frozen=True)
class Protocol:
    """What is measured of a scene, as far as its labels allow it, and by which definitions."""

    groups: tuple[str, ...] = ("pose", "points", "depth", "flow")  # of COLUMNS; normals come with the point profile
    points: PointProfile = FLOW3R
    farthest: float | None = None  # true depth from here on is not scored, aligned depth is lowered to it


EVERYTHING = Protocol()


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


def score_scene(
    prediction: Prediction,
    views: Views,
    scene: int,
    budget: int | None = None,
    protocol: Protocol = EVERYTHING,
    moving: Bool[Tensor, "N H W"] | None = None,
) -> Score:
    """Everything of the protocol that the labels of one scene of a batch allow to be measured.

    `moving` marks the pixels of things that move: with it, points and flow are also scored on both parts of the scene.
    """
    measured = _Measured(prediction, views, scene, protocol, moving)
    points = measured.points(budget)
    measured.depth()
    degenerate = measured.pose(points)
    measured.flow()
    values = {name: value for name, value in measured.values.items() if value == value}  # NaN: not measured
    return Score(scene_name(views, scene), values, measured.notes, degenerate, measured.facts)


class _Measured:
    """What is found out about one scene, group by group."""

    def __init__(
        self, prediction: Prediction, views: Views, scene: int, protocol: Protocol, moving: Tensor | None
    ) -> None:
        self.prediction, self.views, self.scene, self.protocol = prediction, views, scene, protocol
        self.parts = {} if moving is None else {"static": ~moving, "dynamic": moving}
        self.values: dict[str, float] = {}
        self.notes: dict[str, int] = {}
        self.facts: dict[str, float] = {}
        self.known = None
        if views.depth is not None:  # neither unknown depth nor sky (depth 0) nor padding
            depth = views.depth[scene]
            self.known = depth > 0 if views.valid is None else (depth > 0) & views.valid[scene]
            if protocol.farthest is not None:
                self.known &= depth < protocol.farthest

    def points(self, budget: int | None) -> PointErrors | None:
        """Point errors; None where they are not asked for or not labelled. Either way s becomes known, if it can."""
        views, scene = self.views, self.scene
        if self.known is None or views.intrinsics is None or views.world_from_camera is None:
            return None
        truth = transform_maps(views.world_from_camera[scene], unproject(views.depth[scene], views.intrinsics[scene]))
        if "points" not in self.protocol.groups:
            self.facts |= {"s": spread(truth[self.known].double())} if self.known.any() else {}
            return None
        found = point_errors_by_part(
            self.prediction.world_points[scene],
            truth,
            self.known,
            self.parts,
            budget,
            profile=self.protocol.points,
            first_camera=views.world_from_camera[scene, 0, :3, 3],
        )
        errors = found["all"]
        self._note(f"points failed: {errors.failed}", bool(errors.failed))
        self._note("predicted points are not finite", round(errors.dropped * int(self.known.sum())))
        self.values |= point_values(errors)
        for part in self.parts:
            if part in found:
                self.values |= {f"{name}_{part}": value for name, value in length_values(found[part]).items()}
        self.facts |= {"s": errors.scale, "points": errors.points}
        return errors

    def depth(self) -> None:
        """Errors of depth under every alignment; nothing where no pixel has a true depth."""
        if "depth" not in self.protocol.groups or self.known is None:
            return
        if not self.known.any():
            self._note("no pixel has a true depth", 1)
            return
        prediction, truth = self.prediction.local_points[self.scene, ..., 2], self.views.depth[self.scene]
        for alignment, end in ALIGNMENTS.items():
            errors = depth_errors(prediction, truth, self.known, alignment, clip=self.protocol.farthest)
            self.values |= {
                f"abs_rel{end}": errors.abs_rel,
                f"sq_rel{end}": errors.squared_rel,
                f"depth_rmse{end}": errors.rmse,
                f"log_rmse{end}": errors.log_rmse,
                f"delta{end}": errors.delta,
            }
        self._note(f"depth failed: {errors.failed}", bool(errors.failed))
        self.facts["depth_pixels"] = errors.pixels

    def pose(self, points: PointErrors | None) -> bool:
        """Pair and trajectory errors. Returns whether the true trajectory is degenerate."""
        views, spread_of_truth = self.views, self.facts.get("s", 0.0)
        if "pose" not in self.protocol.groups or views.world_from_camera is None:
            return False
        predicted, true = self.prediction.world_from_camera[self.scene], views.world_from_camera[self.scene]
        if len(true) < 2:
            return False
        errors = relative_pose_errors(predicted, true, STATIC_BASELINE * spread_of_truth)
        self.values |= pair_values(errors)
        self._note("true baselines are shorter than 0.1 % of the scene", int(errors.static.sum()))
        self._note("pairs have a predicted pose that is not finite", int(errors.failed.sum()))
        self.facts |= {"pairs": errors.rotation.numel(), "static_pairs": int(errors.static.sum())}
        trajectory = trajectory_errors(predicted, true)
        if trajectory is None:
            return False
        for reason in trajectory.degenerate:
            self._note(reason, 1)
        lengths = {"ate": trajectory.ate, "rpe_translation": trajectory.rpe_translation}
        self.values |= lengths | {"rpe_rotation": trajectory.rpe_rotation}
        if spread_of_truth > 0:
            self.values |= {f"{name}_of_s": length / spread_of_truth for name, length in lengths.items()}
        if points is not None:
            # A cloud without an alignment has scale 0: its cameras stand still, as those of a broken prediction.
            by_points = trajectory_errors(predicted, true, points.alignment)
            self.values |= {"ate_ptscale": by_points.ate, "rpe_translation_ptscale": by_points.rpe_translation}
            self.facts["scale_ratio"] = trajectory.scale / points.alignment if points.alignment > 0 else 0.0
        return any(reason.startswith("truth") for reason in trajectory.degenerate)

    def flow(self) -> None:
        """Flow errors, of the pairs and the grid of the labels."""
        views, scene = self.views, self.scene
        if "flow" not in self.protocol.groups or views.flow is None or self.prediction.flow is None:
            return
        pairs, truth = views.flow.pairs[scene], views.flow.displacement[scene]
        covisible = None if views.flow.covisible is None else views.flow.covisible[scene]
        predicted = self.prediction.flow.displacement[scene]
        errors = flow_errors(predicted, truth, covisible)
        skipped = len(pairs) if errors is None else errors.skipped
        self._note("pairs without covisible pixels are left out", skipped)
        self.facts["flow_pairs"] = len(pairs) - skipped
        if errors is None:
            return
        self._note("sequences have predicted flow that is not finite", int(errors.failed > 0))
        self.values |= flow_values(errors)
        for part, mask in self.parts.items():
            among = flow_errors(predicted, truth, covisible, mask[pairs[:, 0]])
            if among is not None:
                self.values |= {f"aepe_{part}": among.aepe, f"within_5px_{part}": among.within_pixels[-1]}

    def _note(self, text: str, count: int) -> None:
        """Count an oddity, if there is one."""
        if count:
            self.notes[text] = self.notes.get(text, 0) + int(count)


def point_values(errors: PointErrors) -> dict[str, float]:
    """The columns of point errors, and of normals where the profile has them."""
    values = length_values(errors) | {
        "mse_sq": errors.mse_squared,
        "rmse": errors.rmse,
        "accuracy_median": errors.accuracy_median,
        "completeness_median": errors.completeness_median,
        "chamfer_sq": errors.chamfer_squared,
        "dropped": 100.0 * errors.dropped,
    }
    if errors.normals is None:
        return values
    normals = errors.normals
    return values | {
        "nc1": normals.accuracy,
        "nc2": normals.completeness,
        "nc": normals.mean,
        "nc1_median": normals.accuracy_median,
        "nc2_median": normals.completeness_median,
        "nc_median": 0.5 * (normals.accuracy_median + normals.completeness_median),
    }


def length_values(errors: PointErrors) -> dict[str, float]:
    """The columns of point errors that parts of a scene have too."""
    return {
        "mse": errors.mse,
        "accuracy": errors.accuracy,
        "completeness": errors.completeness,
        "chamfer": errors.chamfer,
        "f@2": errors.f2,
        "f@5": errors.f5,
    }


def pair_values(errors: PairErrors) -> dict[str, float]:
    """The columns of pairs' errors: reference mode, strict mode, and the other readings of the AUC."""
    reference = pair_scores(errors, thresholds=THRESHOLDS)
    strict = pair_scores(errors, "strict", THRESHOLDS)
    worse = torch.maximum(errors.rotation, errors.translation)
    values = _at("rra", reference.rra) | _at("rta", reference.rta) | _at("rta_signed", reference.rta_signed)
    values |= {f"auc@{limit}": area_under_curve(worse, limit) for limit in AUC_LIMITS}
    values |= {
        "auc_integral@30": reference.areas.integral,
        "auc_histc@30": reference.areas.histc,
        "maa@30": reference.areas.mean_accuracy,
    }
    return values | _at("rta_strict", strict.rta) | {"auc_strict@30": strict.auc}


def _at(name: str, shares: Sequence[float]) -> Mapping[str, float]:
    return {f"{name}@{threshold}": share for threshold, share in zip(THRESHOLDS, shares)}


def flow_values(errors: FlowErrors) -> dict[str, float]:
    """The columns of flow errors."""
    values = {"aepe": errors.aepe, "aepe_of_diagonal": errors.aepe_of_diagonal}
    values |= {f"within_{threshold}px": share for threshold, share in zip(PIXEL_THRESHOLDS, errors.within_pixels)}
    return values | {f"within_{round(100 * t)}%": share for t, share in zip(WIDTH_THRESHOLDS, errors.within_width)}
