"""What a model is worth on kept worlds, world by world: poses, points, depth, and flow where it has a head for it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.data.kept_worlds import KeptWorlds
from flow3r.eval.predictors import Predictor, fixed_poses, identity, truth
from flow3r.experiment.sources import SEEN
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation, transform_maps
from flow3r.metrics.curves import area_under_curve
from flow3r.metrics.depth import depth_errors
from flow3r.metrics.flow import flow_errors
from flow3r.metrics.points import point_errors
from flow3r.metrics.pose import THRESHOLDS, pair_scores, relative_pose_errors
from flow3r.types import Prediction, Views

POINT_BUDGET = 2000  # ours: points of a world whose nearest neighbours are sought; the MSE has all
_AT_ONCE = 8  # worlds that a model sees in one batch

# Of every measure a value for each world, None where it does not exist.
Measures = dict[str, list[float | None]]


def measured(predictor: Predictor, kept: KeptWorlds, *, flow: bool = True, most: int | None = None) -> Measures:
    """The measures of a predictor on four frames of the first `most` kept worlds, or all, and facts of these worlds.

    With `flow`, that of all kept pairs is measured too, where it is predicted.
    """
    found: Measures = {}
    count = kept.worlds.count if most is None else min(most, kept.worlds.count)
    for first in range(0, count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, count))
        frames = torch.tensor(SEEN).expand(len(numbers), -1)
        views = kept.views(numbers, frames)
        views = views if flow else replace(views, flow=None)
        prediction = predictor(views)
        for scene, number in enumerate(numbers):
            facts = kept.facts(number)
            values = world_measures(prediction, views, scene)
            values |= {"moving_objects": float(facts.moving_objects), "moving_area": facts.moving_area}
            for name, value in values.items():
                found.setdefault(name, []).append(value)
    return found


def world_measures(prediction: Prediction, views: Views, scene: int) -> dict[str, float | None]:
    """Of one world: RRA, RTA, AUC (per cent) and the mean rotation error (degrees) of all unordered pairs; mean
    distance and Chamfer distance of points in units of their spread; AbsRel of depth; if flow was predicted, AEPE
    (pixels) and the share below 5 px (per cent) over all ordered pairs, None where nothing is covisible."""
    true = views.world_from_camera[scene]
    errors = relative_pose_errors(prediction.world_from_camera[scene], true)
    scores = pair_scores(errors)
    worse = torch.maximum(errors.rotation, errors.translation)
    known = views.depth[scene] > 0
    world = transform_maps(true, unproject(views.depth[scene], views.intrinsics[scene]))
    points = point_errors(prediction.world_points[scene], world, known, POINT_BUDGET)
    depth = depth_errors(prediction.local_points[scene, ..., 2], views.depth[scene], known)
    values: dict[str, float | None] = {
        **{f"rra@{threshold}": share for threshold, share in zip(THRESHOLDS, scores.rra, strict=True)},
        **{f"rta@{threshold}": share for threshold, share in zip(THRESHOLDS, scores.rta, strict=True)},
        "auc@5": area_under_curve(worse, 5),
        "auc@30": scores.auc,
        "rotation": errors.rotation.mean().item(),
        "mse": points.mse,
        "cd": points.chamfer,
        "abs_rel": depth.abs_rel,
    }
    if prediction.flow is not None and views.flow is not None:
        found = flow_errors(
            prediction.flow.displacement[scene], views.flow.displacement[scene], views.flow.covisible[scene]
        )
        values |= {
            "aepe": None if found is None else found.aepe,
            "5px": None if found is None else found.within_pixels[-1],
        }
    return values


def mean_of(measures: Measures) -> dict[str, float]:
    """Over the worlds on which a measure exists; a measure that exists on none is left out."""
    known = {name: [value for value in values if value is not None] for name, values in measures.items()}
    return {name: sum(values) / len(values) for name, values in known.items() if values}


def trivial_rows(test: KeptWorlds, labelled: KeptWorlds) -> dict[str, Measures]:
    """What no learning scores on test worlds: cameras that look the same way, the mean poses of the labelled worlds,
    both before a flat wall, with the flow that follows; and the truth itself."""
    rows = {"identity": identity, "mean pose": fixed_poses(mean_poses(labelled)), "oracle": truth}
    return {name: measured(predictor, test) for name, predictor in rows.items()}


def mean_poses(kept: KeptWorlds) -> Float[Tensor, "N 4 4"]:
    """The mean poses of the measured frames in the axes of the first: chordal means of rotations, and means of
    translations in units of the path's length."""
    frames = torch.tensor(SEEN).expand(kept.worlds.count, -1)
    poses = kept.views(range(kept.worlds.count), frames).world_from_camera.double()
    length = (poses[:, 1:, :3, 3] - poses[:, :-1, :3, 3]).norm(dim=-1).sum(1)[:, None, None].clamp_min(1e-9)
    relative = invert(poses[:, :1]) @ poses
    rotation = nearest_rotation(relative[..., :3, :3].mean(0))
    return from_parts(rotation, (relative[..., :3, 3] / length).mean(0)).float()
