"""Training clips from a label store: reproducible, of one grid, and never from the part that is held out."""

import dataclasses

import numpy as np
import pytest
import torch
from made_media import texture

from flow3r.data.clips import LabelClips, Part, Pool
from flow3r.data.labels import LabelStore, Segment, SegmentInfo
from flow3r.data.mixture import Wanted
from flow3r.data.sampling import label_pairs
from flow3r.errors import LabelStoreError
from flow3r.types import Flow, Views


def write_segment(store: LabelStore, start: int, size: tuple[int, int], source: str = "a") -> SegmentInfo:
    """Ten frames of a shot of twenty. Flow and image name their pair and frame."""
    pairs = label_pairs(np.arange(10) / 25, pairs_per_frame=1.5, seed=start)
    flow = torch.from_numpy(pairs).float()[None, :, None, None].expand(1, len(pairs), *size, 2)
    info = SegmentInfo(
        source=source,
        source_sha256=source.encode().hex() * 20,
        shot=(0, 20),
        indices=tuple(range(start, start + 10)),
        timestamps=tuple(k / 25 for k in range(start, start + 10)),
        names=tuple(f"{source}{k}" for k in range(start, start + 10)),
        original_sizes=(size,) * 10,
        size=size,
        model_from_original=(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * 10,
        pairs=tuple((i, j) for i, j in pairs.tolist()),
        covisible_share=(1.0,) * len(pairs),
        median_flow=(1.0,) * len(pairs),
        refusals=(),
    )
    images = np.stack([texture(*size, k) // 2 + np.uint8(start + k) for k in range(10)])
    store.write(Segment(info, images, Flow(torch.from_numpy(pairs)[None], flow, torch.ones(1, len(pairs), *size))))
    return info


@pytest.fixture
def store(tmp_path) -> LabelStore:
    store = LabelStore(tmp_path, {})
    for start in (0, 10):
        write_segment(store, start, (28, 42))
    write_segment(store, 0, (42, 28), "b")
    return store


def drawn(clips: LabelClips, scenes: int, views: int, pairs: int, generator: torch.Generator) -> Views:
    """As a step draws: what the clips can give of what is wanted."""
    wanted = clips.fit(Wanted(0, scenes, views, (14, 14), pairs), generator)
    return clips.draw(wanted, generator)


def test_a_batch_is_a_function_of_its_generator(store):
    clips = LabelClips(store)
    a, b = (drawn(clips, 3, 4, 5, torch.Generator().manual_seed(7)) for _ in range(2))
    torch.testing.assert_close(a.images, b.images)
    torch.testing.assert_close(a.flow.pairs, b.flow.pairs)
    assert a.names == b.names


def test_pairs_keep_their_labels(store):
    """The test's flow is (i, j) of the segment: the clip's frames must be those two."""
    clips = LabelClips(store)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        batch = drawn(clips, 2, 3, 4, generator)
        assert batch.images.shape[:3] == (2, 3, 3)
        assert batch.flow.displacement.shape == (2, 4, *batch.images.shape[3:], 2)
        for scene in range(2):
            frames = [int(name[1:]) for name in batch.names[scene]]
            first = frames[0] // 10 * 10
            for (i, j), flow in zip(batch.flow.pairs[scene].tolist(), batch.flow.displacement[scene, :, 0, 0].tolist()):
                assert flow == [frames[i] - first, frames[j] - first]


def test_the_end_of_every_shot_is_held_out(store):
    clips = LabelClips(store, held_out=0.4)  # of 20 frames: those from 12 on
    generator = torch.Generator().manual_seed(0)
    seen = {name for _ in range(30) for scene in drawn(clips, 2, 2, 1, generator).names for name in scene}
    assert seen
    assert {int(name[1:]) for name in seen} <= set(range(12))
    held_out = list(clips.held_out_pairs())
    assert len(held_out) == clips.held_out_count > 0
    for pair in held_out:
        assert pair.flow.pairs.tolist() == [[[0, 1]]]
        assert min(int(name[1:]) for name in pair.names[0]) >= 12
    assert clips.training_count + clips.held_out_count < LabelClips(store).training_count  # some reach across


def test_what_the_store_cannot_give_is_said(tmp_path, store):
    connected = drawn(LabelClips(store), 2, 1000, 2, torch.Generator())
    assert 2 <= connected.images.shape[1] < 1000 and connected.images.shape[0] == 2
    with pytest.raises(LabelStoreError, match="no accepted pair"):
        LabelClips(LabelStore(tmp_path / "empty", {}))


def test_clips_are_drawn_in_proportion_to_the_pairs_of_their_segments(store):
    sizes = [1, 6, 3]
    pool = Pool([Part(store.segments()[0], torch.arange(size)) for size in sizes])
    generator = torch.Generator().manual_seed(0)
    picked = [len(pool.pick(generator).rows) for _ in range(1000)]
    assert [picked.count(size) for size in sizes] == pytest.approx([100, 600, 300], abs=60)


def test_pairs_connect_the_largest_group_of_frames(store):
    info = dataclasses.replace(store.segments()[0], pairs=((0, 1), (2, 3), (5, 6), (6, 7), (3, 4), (4, 2), (9, 7)))
    assert [Part(info, torch.arange(count)).connected for count in range(8)] == [0, 2, 2, 2, 3, 3, 3, 4]
