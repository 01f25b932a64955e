"""The judge of teachers where the flow is known: poses that are off are refined, right ones are left where they are."""

import numpy as np
import pytest
import torch

from flow3r.config import WorldsConfig
from flow3r.data.frame import Frame
from flow3r.data.worlds import render_worlds
from flow3r.errors import InputError
from flow3r.geometry.flow import flow_from_depth
from flow3r.teacher.judge import judge, precision
from flow3r.types import Flow, FlowLabels

VIEWS = render_worlds([5], 3, (252, 336), config=WorldsConfig(rotation_degrees=(2.0, 6.0))).views


class Sequence:
    """The views of a world, each after the first with its pose turned by some degrees about y."""

    name = "world"

    def __init__(self, degrees: float, depth: bool = True):
        self.degrees, self.depth = degrees, depth

    def __len__(self) -> int:
        return VIEWS.images.shape[1]

    def timestamps(self) -> np.ndarray:
        return np.arange(len(self)) / 10.0

    def frames(self, indices):
        for k in indices:
            angle = np.radians(self.degrees * k)
            pose = VIEWS.world_from_camera[0, k].double().numpy()
            turn = np.eye(4)
            turn[0, 0] = turn[2, 2] = np.cos(angle)
            turn[0, 2], turn[2, 0] = np.sin(angle), -np.sin(angle)
            image = (VIEWS.images[0, k].movedim(0, -1) * 255).round().byte().numpy()
            depth = VIEWS.depth[0, k].double().numpy() if self.depth else None
            yield Frame(image, k / 10, str(k), depth, VIEWS.intrinsics[0, k].double().numpy(), pose @ turn)


class Oracle:
    """The flow of the world itself, off by some pixels, where both views see the point."""

    name = "oracle"

    def __init__(self, off: float = 0.0):
        self.off, self.parameters = off, {"off": off}

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        flows, seen = zip(
            *(flow_from_depth(VIEWS.depth[:, p], VIEWS.intrinsics[:, p], VIEWS.world_from_camera[:, p]) for p in pairs)
        )
        flow = torch.stack(flows, dim=1) + torch.tensor([self.off, 0.0])
        return FlowLabels(Flow(pairs[None], flow, torch.stack(seen, dim=1).float()), ("",) * len(pairs))


@pytest.mark.parametrize("degrees", [0.0, 1.5])
def test_a_pose_that_is_off_is_refined_and_the_truth_is_found(degrees):
    right, wrong = (list(judge(Sequence(degrees), Oracle(off))) for off in (0.0, 4.0))
    assert all(pair.matches >= 20 for pair in right)
    assert precision(right) > 0.97
    assert precision(wrong) < 0.05
    assert (precision(right, as_given=True) > 0.99) == (degrees == 0)
    if degrees:
        assert precision(right, as_given=True) < 0.1
        assert all(pair.turned > 1 and pair.moved > 3 for pair in right)
    else:
        assert all(pair.turned < 0.3 and pair.moved < 0.5 for pair in right)


def test_frames_without_depth_are_named():
    with pytest.raises(InputError, match="0: the true flow needs depth, intrinsics and pose"):
        list(judge(Sequence(0.0, depth=False), Oracle()))
