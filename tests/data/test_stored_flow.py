"""Flow from a store is the scene's own on any grid that a frame is cut to, and only of frames that were labelled."""

import dataclasses
from itertools import permutations

import numpy as np
import pytest
import torch
from test_labels import SETTINGS
from test_posed import Room, generator, wanted

from flow3r.data.labels import LabelStore, Segment, SegmentInfo
from flow3r.data.posed import PosedScenes
from flow3r.data.stored_flow import StoredFlow, resample_flow
from flow3r.data.transforms import fit_depth, fit_frame, fit_intrinsics
from flow3r.errors import LabelStoreError
from flow3r.geometry.flow import flow_from_depth
from flow3r.types import Flow

GRID = (112, 154)  # another aspect than that of the frames, so that both grids are cut from them differently


def write_exact(store: LabelStore, room: Room, indices: tuple[int, ...]) -> SegmentInfo:
    """The labels of a perfect teacher, on GRID, of all pairs of some frames."""
    frames = list(room.frames(indices))
    affines = [fit_frame(frame.image, GRID).model_from_original for frame in frames]
    pairs = tuple(permutations(range(len(frames)), 2))
    depth = np.stack([fit_depth(frame.depth, affine, GRID) for frame, affine in zip(frames, affines)])
    intrinsics = np.stack([fit_intrinsics(frame.intrinsics, affine) for frame, affine in zip(frames, affines)])
    poses = np.stack([frame.world_from_camera for frame in frames])
    chosen = torch.tensor(pairs)
    displacement, covisible = flow_from_depth(
        *(torch.from_numpy(labels).float()[chosen] for labels in (depth, intrinsics, poses))
    )
    info = SegmentInfo(
        source=room.name,
        source_sha256="0" * 64,
        shot=(0, len(room)),
        indices=indices,
        timestamps=tuple(frame.timestamp for frame in frames),
        names=tuple(frame.name for frame in frames),
        original_sizes=((60, 100),) * len(frames),
        size=GRID,
        model_from_original=tuple(tuple(map(tuple, affine.tolist())) for affine in affines),
        pairs=pairs,
        covisible_share=tuple(covisible.float().mean((1, 2)).tolist()),
        median_flow=(1.0,) * len(pairs),
        refusals=(),
    )
    images = np.zeros((len(frames), *GRID, 3), np.uint8)
    store.write(Segment(info, images, Flow(chosen[None], displacement[None], covisible[None].float())))
    return info


@pytest.fixture
def store(tmp_path) -> LabelStore:
    store = LabelStore(tmp_path, SETTINGS)
    write_exact(store, Room(), (2, 3, 4, 5))
    return store


@pytest.mark.parametrize("size", [(42, 56), (56, 98), (70, 28)])
def test_flow_is_the_scenes_own_on_every_grid(store, size):
    scenes = PosedScenes([Room()], stored=StoredFlow(store, {"room": "room"}))
    views = scenes.draw(wanted(pairs=4, size=size), generator())
    scene, flow = torch.arange(2)[:, None, None], views.flow
    of_pairs = (getattr(views, label)[scene, flow.pairs] for label in ("depth", "intrinsics", "world_from_camera"))
    truth, seen = flow_from_depth(*(label.flatten(0, 1) for label in of_pairs))
    both = (flow.covisible.flatten(0, 1) > 0.5) & seen.bool()
    away = (flow.displacement.flatten(0, 1) - truth).norm(dim=-1)[both]
    assert both.float().mean() > 0.7 * seen.float().mean() > 0.2  # a wider view sees more than was labelled
    assert truth[both].norm(dim=-1).median() > 2
    assert away.median() < 0.1 and away.quantile(0.95) < 0.5  # steps of 1/8 px of the store among it
    assert scenes.counts()["stored pairs"] == 8


def test_the_same_grid_leaves_labels_as_they_are():
    flow = Flow(torch.tensor([[[0, 1]]]), torch.randn(1, 1, 20, 30, 2), torch.ones(1, 1, 20, 30))
    same = resample_flow(flow, torch.eye(3).expand(2, 3, 3), (20, 30))
    known = same.covisible[0, 0] > 0
    torch.testing.assert_close(same.displacement[0, 0][known], flow.displacement[0, 0][known], rtol=0, atol=1e-4)
    assert 0.8 < known.float().mean() < 1  # what leaves the image is not covisible


def test_views_are_frames_that_were_labelled(store):
    stored = StoredFlow(store, {"room": "room"})
    for seed in range(5):
        chosen = stored.choose("room", wanted(views=3), generator(seed))
        assert set(chosen.indices) <= {2, 3, 4, 5} and len(chosen.indices) == 3
    assert stored.choose("room", wanted(views=5), generator()) is None
    assert stored.choose("elsewhere", wanted(), generator()) is None


def test_other_frames_than_the_labelled_ones_are_refused(store):
    shorter = Room()
    shorter.poses = shorter.poses[1:]  # a frame was lost
    shorter.frames = lambda indices: (dataclasses.replace(f, name=f"{int(f.name) + 1}") for f in Room().frames(indices))
    with pytest.raises(LabelStoreError, match="label it again"):
        PosedScenes([shorter], stored=StoredFlow(store, {"room": "room"})).draw(wanted(), generator())


def test_nothing_is_known_where_a_sequence_has_no_labels(store):
    scenes = PosedScenes([Room(name="other")], stored=StoredFlow(store, {"room": "room"}))
    flow = scenes.draw(dataclasses.replace(wanted(), pairs=2), generator()).flow
    assert flow.pairs.shape == (2, 2, 2) and flow.covisible.max() == 0
