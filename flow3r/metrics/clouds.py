"""Clouds of points without correspondences, in float64: nearest neighbours, ICP, normals."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.geometry.align import umeyama

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

ICP_ITERATIONS = 30  # Open3D's defaults, which π³ and CUT3R leave as they are
ICP_CHANGE = 1e-6
NORMAL_NEIGHBOURS = 30  # the point itself among them (Open3D's default search, π³)
CHUNK = 100_000  # points whose neighbourhoods are held at once


@dataclass(frozen=True)
class RigidFit:
    """What ICP found: target = rotation @ source + translation."""

    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, "3"]
    fitness: float  # share of source points with a target point within the gate
    rmse: float  # of these, in the points' unit; 0 where there is none
    iterations: int


@dataclass(frozen=True)
class NormalConsistency:
    """|cosine| between a point's normal and that of its nearest point in the other cloud, in [0, 1]."""

    accuracy: float  # NC1, mean over predicted points
    completeness: float  # NC2, mean over true points
    mean: float  # NC, of the two
    accuracy_median: float
    completeness_median: float


def tree_of(points: Float[Tensor, "n 3"]) -> "cKDTree":
    """A search tree over a cloud."""
    from scipy.spatial import cKDTree

    # Measured on pointmaps (benchmarks.scoring): a third of the time of the defaults, building and asking, where the
    # clouds lie a few hundredths of their size apart. Compact nodes cost most there: many are about as near.
    return cKDTree(points.cpu().double().numpy(), leafsize=32, balanced_tree=False, compact_nodes=False)


def mutual_nearest(
    prediction: Float[Tensor, "n 3"], truth: Float[Tensor, "m 3"]
) -> tuple[tuple[Float[Tensor, "n"], Int[Tensor, "n"]], tuple[Float[Tensor, "m"], Int[Tensor, "m"]]]:
    """For every predicted point the distance to the nearest true one and that one's index; and the other way round.

    Each cloud asks in the order of its own tree, so that questions that follow each other visit the same nodes.
    """
    trees = tree_of(prediction), tree_of(truth)
    answers = []
    for own, other in (trees, trees[::-1]):
        distance, index = np.empty(own.n), np.empty(own.n, dtype=np.int64)
        distance[own.indices], index[own.indices] = other.query(own.data[own.indices], workers=torch.get_num_threads())
        answers.append((torch.from_numpy(distance), torch.from_numpy(index)))
    return answers[0], answers[1]


def iterative_closest_point(source: Float[Tensor, "n 3"], target: Float[Tensor, "m 3"], gate: float) -> RigidFit:
    """Point-to-point ICP from the identity, with pairs closer than `gate` (in the points' unit), rigid.

    Every step fits the best motion to the pairs that the last one left (Besl & McKay 1992). Stops after 30 steps, or
    when neither the share of paired points nor their RMSE changes by 1e-6, as Open3D does. Without pairs: the identity.
    """
    source, target = source.cpu().double(), target.cpu().double()
    tree = tree_of(target)
    rotation, translation = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    paired, index, fitness, rmse = _pairs(tree, source, gate)
    iterations = 0
    while iterations < ICP_ITERATIONS and fitness > 0:
        iterations += 1
        _, rotation, translation = umeyama(source[paired], target[index], with_scale=False)
        before = fitness, rmse
        paired, index, fitness, rmse = _pairs(tree, source @ rotation.T + translation, gate)
        if abs(fitness - before[0]) < ICP_CHANGE and abs(rmse - before[1]) < ICP_CHANGE:
            break
    return RigidFit(rotation, translation, fitness, rmse, iterations)


def _pairs(tree: "cKDTree", points: Tensor, gate: float) -> tuple[Tensor, Tensor, float, float]:
    """Which points have a partner, which it is, their share and their RMSE."""
    # The bound spares the search of far points, which return an infinite distance.
    distance, index = tree.query(points.numpy(), distance_upper_bound=gate, workers=torch.get_num_threads())
    distance, index = torch.from_numpy(distance), torch.from_numpy(index)
    paired = distance < gate
    rmse = distance[paired].square().mean().sqrt().item() if paired.any() else 0.0
    return paired, index[paired], paired.double().mean().item(), rmse


def point_normals(points: Float[Tensor, "n 3"], neighbours: int = NORMAL_NEIGHBOURS) -> Float[Tensor, "n 3"]:
    """Unit normals without orientation: the direction of least variance of every point's nearest neighbours.

    Raises ValueError for fewer than three points.
    """
    if len(points) < 3:
        raise ValueError(f"a normal needs three points, got {len(points)}")
    points = points.cpu().double()
    tree = tree_of(points)
    normals = []
    for part in points.split(CHUNK):
        _, index = tree.query(part.numpy(), k=min(neighbours, len(points)), workers=torch.get_num_threads())
        around = points[torch.from_numpy(index)]
        around = around - around.mean(1, keepdim=True)
        normals.append(torch.linalg.eigh(around.mT @ around).eigenvectors[..., 0])
    return torch.cat(normals)


def normal_consistency(
    prediction: Float[Tensor, "n 3"],
    truth: Float[Tensor, "m 3"],
    true_of_predicted: Int[Tensor, "n"],
    predicted_of_true: Int[Tensor, "m"],
) -> NormalConsistency:
    """Agreement of the normals of two clouds at nearest neighbours, given by index both ways (`mutual_nearest`)."""
    predicted, true = point_normals(prediction), point_normals(truth)
    accuracy = (predicted * true[true_of_predicted]).sum(-1).abs()
    completeness = (true * predicted[predicted_of_true]).sum(-1).abs()
    return NormalConsistency(
        accuracy=accuracy.mean().item(),
        completeness=completeness.mean().item(),
        mean=0.5 * (accuracy.mean() + completeness.mean()).item(),
        accuracy_median=accuracy.median().item(),
        completeness_median=completeness.median().item(),
    )
