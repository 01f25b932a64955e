"""Pseudo-3D labels come from flow alone: right where flow is right, kept as failures where nothing can be solved."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted
from flow3r.data.pseudo_worlds import INDEX, PseudoSequences, PseudoWorlds
from flow3r.data.regime_labels import label_set
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError
from flow3r.experiment.pseudo_labels import Optimiser, depth_from_flow, flow_matches, pseudo_label_set
from flow3r.metrics.depth import depth_errors
from flow3r.metrics.pose import relative_pose_errors, trajectory_errors
from flow3r.types import Flow, FlowLabels

pytest.importorskip("pycolmap")
pytest.importorskip("cv2")

SET = WorldSet("static", "unlabelled", 3)  # of world 1 two frames are followed, of world 2 none
QUICK = Optimiser(stride=14)


class Witness:
    """A teacher that knows the truth, but tells it of only two frames of world 1, and nothing of world 2."""

    name: ClassVar[str] = "witness"
    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.number = -1

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        self.number += 1
        flow = SET.render([self.number], torch.arange(FRAMES)[None], pairs[None], side=images.shape[-1]).views.flow
        told = [set(pairs.flatten().tolist()), set(pairs[0].tolist()), set()][self.number]
        return FlowLabels(flow, tuple("" if {i, j} <= told else "refused" for i, j in pairs.tolist()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    folder = tmp_path_factory.mktemp("flow") / "store"
    return label_set(SET, Witness(), folder, pairs_per_frame=1.5, finer=1)


@pytest.fixture(scope="module")
def pseudo(store: LabelStore, tmp_path_factory: pytest.TempPathFactory) -> PseudoWorlds:
    return pseudo_label_set(SET, store, tmp_path_factory.mktemp("pseudo"), QUICK)


def test_colmap_and_triangulation_find_a_still_world_up_to_a_similarity(pseudo: PseudoWorlds):
    placed = pseudo.solved[0]
    assert placed == FRAMES
    found = pseudo.views([0], torch.arange(placed)[None])
    truth = SET.render([0], torch.arange(FRAMES)[None]).views
    poses, true_poses = found.world_from_camera[0].double(), truth.world_from_camera[0].double()
    assert relative_pose_errors(poses, true_poses).rotation.max() < 1  # degrees
    extent = (true_poses[:, :3, 3] - true_poses[:, :3, 3].mean(0)).norm(dim=-1).max()
    assert trajectory_errors(poses, true_poses).ate < 0.02 * extent
    torch.testing.assert_close(found.intrinsics[0], truth.intrinsics[0], rtol=0.03, atol=0)
    known = found.depth[0] > 0
    assert known.float().mean() > 0.3 and depth_errors(found.depth[0], truth.depth[0], known).abs_rel < 0.03
    assert float(found.depth[0][known].median()) == pytest.approx(1, rel=1e-3)
    path, true_path = ((p[1:, :3, 3] - p[:-1, :3, 3]).norm(dim=-1).sum() for p in (poses, true_poses))
    depths = (found.depth[0] / truth.depth[0])[known].double()
    assert float(depths.median()) == pytest.approx(float(path / true_path), rel=0.03)  # one scale for both


def test_worlds_that_cannot_be_solved_are_failures_with_a_reason(pseudo: PseudoWorlds):
    assert set(pseudo.failed) == {1, 2} and not pseudo.missing
    assert "COLMAP placed 2 of 12 frames" in pseudo.failed[1]
    assert "accepted no pair" in pseudo.failed[2]
    assert [path.name for path in sorted(pseudo.folder.glob("*.safetensors"))] == ["00000.safetensors"]
    names = PseudoSequences(pseudo).draw(Wanted(0, 4, 2, (SIDE, SIDE), 0), torch.Generator().manual_seed(0)).names
    assert {name.split()[0] for scene in names for name in scene} == {"static/unlabelled/0"}


def test_labelling_that_was_stopped_goes_on_to_the_same_files(store: LabelStore, pseudo: PseudoWorlds, tmp_path: Path):
    first = pseudo_label_set(WorldSet("static", "unlabelled", 1), store, tmp_path, QUICK)
    assert first.solved == {0: FRAMES}
    inode = (tmp_path / "00000.safetensors").stat().st_ino
    pseudo_label_set(SET, store, tmp_path, QUICK)
    assert (tmp_path / "00000.safetensors").stat().st_ino == inode  # kept, not made again
    for name in (INDEX, "00000.safetensors"):
        assert (tmp_path / name).read_bytes() == (pseudo.folder / name).read_bytes()


def test_other_settings_and_worlds_without_flow_are_refused(store: LabelStore, pseudo: PseudoWorlds, tmp_path: Path):
    with pytest.raises(InputError, match="other settings"):
        pseudo_label_set(SET, store, pseudo.folder, Optimiser(stride=7))
    with pytest.raises(InputError, match="holds no flow of static/unlabelled/3"):
        pseudo_label_set(WorldSet("static", "unlabelled", 4), store, pseudo.folder, QUICK)


def exact_flow(pairs: list[tuple[int, int]], frames: tuple[int, ...]) -> tuple[Flow, Any]:
    views = SET.render([0], torch.tensor([frames]), torch.tensor([pairs])).views
    return views.flow, views


def test_matches_are_where_flow_leads_and_one_point_is_one_track():
    flow, _ = exact_flow([(0, 1), (1, 0), (2, 0)], (0, 1, 3))
    points, matches = flow_matches(flow, 3, stride=14)
    assert set(matches) == {(0, 1), (0, 2)}
    for (i, j), found in matches.items():
        assert len(found) > 10 and all(len(set(side.tolist())) == len(side) for side in found.T)
        here, there = points[i][found[:, 0]], points[j][found[:, 1]]
        told = 0
        for row, (source, target) in enumerate(flow.pairs[0].tolist()):
            start, end = (here, there) if (source, target) == (i, j) else (there, here)
            if {source, target} == {i, j}:
                x, y = np.floor(start).astype(int).clip(0, SIDE - 1).T
                moved = start + flow.displacement[0, row].numpy()[y, x]
                told += int((np.linalg.norm(moved - end, axis=1) < 1e-3).sum())
        assert told >= len(found)


def test_depth_from_exact_flow_and_cameras_is_exact_in_placed_frames_alone():
    pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 1)]
    flow, views = exact_flow(pairs, (0, 3, 6))
    cameras = (views.intrinsics[0].double().numpy(), views.world_from_camera[0].double().numpy())
    depth, agreement = depth_from_flow(flow, [0, 1, 2], *cameras, Optimiser())
    known = torch.from_numpy(depth) > 0
    assert agreement > 0.99 and known.float().mean() > 0.3
    assert depth_errors(torch.from_numpy(depth), views.depth[0], known, "metric").abs_rel < 1e-3
    fewer, _ = depth_from_flow(flow, [0, 2], *(part[[0, 2]] for part in cameras), Optimiser())
    assert fewer[0].any() and not fewer[1].any()  # frame 2 was followed into frame 1 alone
