"""Geometry as a teacher, and several teachers heard together: truth agrees with itself, and error is refused."""

from dataclasses import dataclass, replace

import pytest
import torch
from exact_world import ExactWorld
from fixed_teacher import FixedTeacher

from flow3r.data.transforms import resize_labels
from flow3r.errors import InputError
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.consensus import ConsensusTeacher, agreement
from flow3r.teacher.exact import ExactTeacher
from flow3r.teacher.neural import resize_images
from flow3r.types import FlowLabels, Teacher

SIZE = (96, 128)


@pytest.fixture(scope="module")
def world() -> ExactWorld:
    return ExactWorld(3, 3, SIZE)


@dataclass(frozen=True)
class Wrong:
    """Another teacher whose flow is so many pixels off, left of the column `until`."""

    teacher: Teacher
    shift: float
    until: int | None = None
    name: str = "wrong"

    @property
    def parameters(self) -> dict[str, float]:
        return {"shift": self.shift}

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        labels = self.teacher(images, pairs)
        displacement = labels.flow.displacement.clone()
        displacement[:, :, :, : self.until] += self.shift
        return replace(labels, flow=replace(labels.flow, displacement=displacement))


def test_exact_tells_the_flow_that_the_scene_has(world):
    labels = ExactTeacher(world.views)(world.images, world.pairs)
    seen = world.views.flow.covisible
    assert labels.refusals == ("",) * len(world.pairs)
    assert torch.equal(labels.flow.covisible, seen)
    assert torch.equal(labels.flow.displacement, world.views.flow.displacement * (seen > 0)[..., None])


def test_exact_computes_from_depth_and_poses_the_flow_that_was_not_rendered(world):
    """Of a static world; things that move do so by more than noise, and are few."""
    labels = ExactTeacher(replace(world.views, flow=None))(world.images, world.pairs)
    both = (labels.flow.covisible > 0) & (world.views.flow.covisible > 0)
    error = (labels.flow.displacement - world.views.flow.displacement).norm(dim=-1)[both]
    assert both.float().mean() > 0.3
    assert error.quantile(0.6) < 0.01


@pytest.mark.parametrize("size", [(48, 64), (101, 155), (192, 128)], ids=str)
def test_exact_follows_images_that_are_stretched(world, size):
    labels = ExactTeacher(lambda images: world.views)(resize_images(world.images, size), world.pairs[:1])
    truth, seen = world.flow(0, 1, size)
    both = (labels.flow.covisible[0, 0] > 0) & (seen > 0)
    error = (labels.flow.displacement[0, 0] - truth).norm(dim=-1)[both]
    assert both.float().mean() > 0.3 and error.median() < 0.05


def test_exact_refuses_what_it_does_not_know(world):
    exact = ExactTeacher(world.views)
    assert exact(world.images, torch.tensor([[1, 1]])).refusals == ("same frame",)
    away = replace(world.views, flow=None, depth=torch.zeros_like(world.views.depth))
    labels = ExactTeacher(away)(world.images, world.pairs[:1])
    assert labels.refusals == ("too little covisible (0%)",) and not labels.flow.covisible.any()
    for views, images, said in (
        (world.views, world.images[:2], "of 3 frames; expected one of the 2 images"),
        (world.views, world.images.flip(0), "not that of the images: frame"),
        (replace(world.views, flow=None, depth=None), world.images, "needs depth, intrinsics and poses"),
    ):
        with pytest.raises(InputError, match=said):
            ExactTeacher(views)(images, torch.tensor([[0, 1]]))


def test_consensus_of_truth_with_itself_is_the_truth(world):
    exact = ExactTeacher(world.views)
    alone, together = (teacher(world.images, world.pairs) for teacher in (exact, ConsensusTeacher((exact, exact))))
    assert together.refusals == alone.refusals
    assert torch.equal(together.flow.displacement, alone.flow.displacement)
    assert torch.equal(together.flow.covisible, alone.flow.covisible)


def test_consensus_refuses_pairs_on_which_teachers_differ(world):
    exact = ExactTeacher(world.views)
    labels = ConsensusTeacher((exact, Wrong(exact, 3.0)))(world.images, world.pairs)
    assert set(labels.refusals) == {"teachers disagree (agree on 0%)"}
    assert not labels.flow.covisible.any() and not labels.flow.displacement.any()


def test_where_teachers_differ_nothing_is_labelled_and_elsewhere_confidence_falls_with_their_distance(world):
    exact, left = ExactTeacher(world.views), SIZE[1] // 4
    near = ConsensusTeacher((exact, Wrong(exact, 0.1)))(world.images, world.pairs).flow.covisible
    apart = ConsensusTeacher((exact, Wrong(exact, 0.3)))(world.images, world.pairs).flow.covisible
    partly = ConsensusTeacher((exact, Wrong(exact, 3.0, left)))(world.images, world.pairs).flow.covisible
    seen = world.views.flow.covisible > 0
    assert ((near > apart) & (apart > 0))[seen].all() and not near[~seen].any()
    assert not partly[..., :left].any() and torch.equal(partly[..., left:] > 0, seen[..., left:])


def test_one_wrong_teacher_of_three_is_outvoted(world):
    exact = ExactTeacher(world.views)
    for order in ((exact, exact, Wrong(exact, 5.0)), (Wrong(exact, 5.0), exact, exact)):
        labels = ConsensusTeacher(order, quorum=2)(world.images, world.pairs)
        truth = exact(world.images, world.pairs)
        assert torch.equal(labels.flow.covisible, truth.flow.covisible)
        torch.testing.assert_close(labels.flow.displacement, truth.flow.displacement)
        assert set(ConsensusTeacher(order)(world.images, world.pairs).refusals) == {"teachers disagree (agree on 0%)"}


def test_consensus_repeats_why_its_teachers_refuse(world):
    exact = ExactTeacher(world.views)
    pair = torch.tensor([[0, 2]])
    labels = ConsensusTeacher((exact, FixedTeacher(reach=1)))(world.images, pair)
    assert labels.refusals == ("refused by fixed: too long (over 1)",)
    three = ConsensusTeacher((exact, FixedTeacher(reach=1), exact), quorum=2)(world.images, pair)
    assert three.refusals == ("",)


def test_agreement_is_that_of_its_slow_definition():
    """A vote is agreed if it is near the vote whose (bounded) distances to all others are the least."""
    flows, covisible = torch.randn(4, 5, 6, 2), torch.rand(4, 5, 6) * (torch.rand(4, 5, 6) > 0.3)
    quorum, tolerance = 2, 1.0
    mean, soft = agreement(flows, covisible, quorum, tolerance)
    for y in range(5):
        for x in range(6):
            votes = [k for k in range(4) if covisible[k, y, x] > 0]
            far = {k: [float((flows[k, y, x] - flows[m, y, x]).norm()) for m in votes] for k in votes}
            expected, sure = torch.zeros(2), 0.0
            if votes:
                centre = min(votes, key=lambda k: sum(min(d, 2 * tolerance) for d in far[k]))
                agreed = [(m, d) for m, d in zip(votes, far[centre]) if d <= tolerance]
                if len(agreed) >= quorum:
                    expected = torch.stack([flows[m, y, x] for m, _ in agreed]).mean(0)
                    least, farthest = min(float(covisible[m, y, x]) for m, _ in agreed), max(d for _, d in agreed)
                    sure = least * float(torch.exp(torch.tensor(-0.5 * (farthest / tolerance) ** 2)))
            torch.testing.assert_close(mean[y, x], expected)
            assert float(soft[y, x]) == pytest.approx(sure, abs=1e-6)


def test_consensus_with_the_classical_teacher_keeps_what_it_has_right(world):
    """Its labels are a part of the classical teacher's, with fewer errors."""
    views = replace(world.views, flow=None)
    loose = ClassicalTeacher(least_motion=0.0, covisible_share=(0.0, 1.0), enough_features=10**9, reach=0.5)
    pairs = torch.tensor([[0, 1]])
    big = resize_images(world.images, (192, 256))
    classical, both = (
        t(big, pairs).flow
        for t in (loose, ConsensusTeacher((loose, ExactTeacher(views)), least_agreement=0.0, least_share=0.0))
    )
    truth = resize_labels(ExactTeacher(views)(world.images, pairs).flow, (192, 256))
    known = both.covisible > 0
    assert 0 < known.sum() <= (classical.covisible > 0).sum()
    assert (both.displacement - truth.displacement).norm(dim=-1)[known].max() < 0.005 * 256


def test_a_consensus_of_one_or_with_an_impossible_quorum_is_refused(world):
    exact = ExactTeacher(world.views)
    for teachers, quorum in (((exact,), None), ((exact, exact), 3), ((exact, exact), 1)):
        with pytest.raises(InputError, match="expected at least two"):
            ConsensusTeacher(teachers, quorum=quorum)
