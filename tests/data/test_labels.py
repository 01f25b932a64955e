"""Labels on disk: what is read is what was written, and any damage is noticed and named."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from made_media import texture

from flow3r.data.labels import LabelStore, Refusal, Segment, SegmentInfo
from flow3r.errors import LabelStoreError
from flow3r.types import Flow

SETTINGS = {"teacher": "classical", "parameters": {"border": 3}}
SIZE = (28, 42)


def make_segment(frames: int = 4, first: int = 10, seed: int = 0, pairs=((0, 1), (1, 0), (0, 3))) -> Segment:
    generator = torch.Generator().manual_seed(seed)
    count = len(pairs)
    displacement = 30 * torch.randn(1, count, *SIZE, 2, generator=generator)
    covisible = torch.rand(1, count, *SIZE, generator=generator)
    covisible[covisible < 0.4] = 0
    info = SegmentInfo(
        source="street walk.mp4",
        source_sha256="ab" * 32,
        shot=(5, 40),
        indices=tuple(range(first, first + frames)),
        timestamps=tuple(0.04 * k for k in range(first, first + frames)),
        names=tuple(f"street_{k:06d}" for k in range(first, first + frames)),
        original_sizes=((270, 480),) * frames,
        size=SIZE,
        model_from_original=(((0.1, 0.0, -1.5), (0.0, 0.1, 0.0), (0.0, 0.0, 1.0)),) * frames,
        pairs=tuple(pairs),
        covisible_share=(0.5,) * count,
        median_flow=(3.25,) * count,
        refusals=(Refusal(1, 2, "near-static (median flow 0.4 px)"),),
    )
    images = np.stack([texture(*SIZE, k) for k in range(frames)])
    return Segment(info, images, Flow(torch.tensor(pairs).long().reshape(1, -1, 2), displacement, covisible))


@pytest.fixture
def store(tmp_path) -> LabelStore:
    return LabelStore(tmp_path / "store", SETTINGS)


def test_round_trip(store):
    segment = make_segment()
    store.write(segment)
    (info,) = LabelStore(store.folder).segments()
    assert info == segment.info
    np.testing.assert_array_equal(store.images(info, range(4)), segment.images)
    flow = store.flow(info, range(3))
    covisible = segment.flow.covisible
    assert (flow.covisible - covisible).abs().max() <= 0.5 / 255 + 1e-6
    known = covisible > 0
    assert (flow.displacement - segment.flow.displacement)[known].abs().max() <= 1 / 16
    assert (flow.displacement[~known] == 0).all()
    assert flow.pairs.tolist() == [[[0, 1], [1, 0], [0, 3]]]


def test_far_flow_is_clipped_and_wraps_nowhere(store):
    segment = make_segment(pairs=((0, 1),))
    far = torch.where(torch.rand(1, 1, *SIZE, 1) > 0.5, 5000.0, -4095.5).expand(1, 1, *SIZE, 2)
    flow = Flow(segment.flow.pairs, far, torch.ones(1, 1, *SIZE))
    store.write(dataclasses.replace(segment, flow=flow))
    read = store.flow(store.segments()[0], [0]).displacement
    torch.testing.assert_close(read, far.clamp(max=32767 / 8))


def test_pairs_are_read_one_by_one(store):
    segment = make_segment()
    path = store.write(segment)
    whole = store.flow(segment.info, range(3))
    for row in range(3):
        one = store.flow(segment.info, [row])
        torch.testing.assert_close(one.displacement, whole.displacement[:, [row]])
        torch.testing.assert_close(one.covisible, whole.covisible[:, [row]])
    assert store.flow(segment.info, []).displacement.shape == (1, 0, *SIZE, 2)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # in the last pair's block
    path.write_bytes(damaged)
    store.flow(segment.info, [0, 1])
    with pytest.raises(LabelStoreError, match="block 9 is damaged"):
        store.flow(segment.info, [2])


def test_a_clip_is_views_whose_pairs_index_it(store):
    segment = make_segment(pairs=((0, 1), (3, 1), (0, 3)))
    store.write(segment)
    clip = store.clip(segment.info, [1, 3], [1])
    assert clip.images.shape == (1, 2, 3, *SIZE)
    assert not clip.labelled
    assert clip.flow.pairs.tolist() == [[[1, 0]]]
    assert clip.names == (("street_000011", "street_000013"),)
    torch.testing.assert_close((clip.images[0, 1] * 255).round().byte().movedim(0, -1).numpy(), segment.images[3])
    with pytest.raises(ValueError, match="beyond the clip"):
        store.clip(segment.info, [1, 3], [0])


def test_every_flipped_byte_is_noticed(store):
    """In preamble, header and blocks alike; the message is one line and names the file."""
    segment = make_segment()
    path = store.write(segment)
    whole = path.read_bytes()

    def read_everything() -> None:
        (info,) = LabelStore(store.folder).segments()
        store.images(info, range(4))
        store.flow(info, range(3))

    read_everything()
    places = [*range(24), *np.linspace(24, len(whole) - 1, 150).astype(int).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(LabelStoreError, match=path.name) as caught:
            read_everything()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
def test_a_cut_file_is_noticed(store, kept):
    segment = make_segment()
    path = store.write(segment)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LabelStoreError, match=path.name):
        store.segments()
        store.flow(segment.info, [2])


def test_other_versions_are_refused(store):
    path = store.write(make_segment())
    data = bytearray(path.read_bytes())
    data[8] = 7
    path.write_bytes(data)
    with pytest.raises(LabelStoreError, match="version 7, this program reads version 1; label again"):
        store.segments()
    manifest = store.folder / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2}))
    with pytest.raises(LabelStoreError, match="version 2"):
        LabelStore(store.folder)


def test_a_store_is_reopened_with_the_settings_it_was_made_with(store):
    LabelStore(store.folder, dict(reversed(SETTINGS.items())))
    with pytest.raises(LabelStoreError, match=r"other settings \(parameters\)"):
        LabelStore(store.folder, {**SETTINGS, "parameters": {"border": 4}})
    assert LabelStore(store.folder).settings == SETTINGS


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(LabelStoreError, match="not a label store"):
        LabelStore(tmp_path)
    for content in ("{", "[]", '{"format": "something else"}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(LabelStoreError, match=r"manifest\.json"):
            LabelStore(tmp_path)


def test_a_segment_without_labels_is_remembered(store):
    segment = make_segment(pairs=())
    path = store.write(dataclasses.replace(segment, images=segment.images[:0]))
    assert store.segments() == (segment.info,)
    assert path.stat().st_size < 3000


def test_unfinished_files_are_no_segments(store):
    store.write(make_segment())
    (store.folder / ".tmp-0123456789ab-x.labels").write_bytes(b"half")
    assert len(store.segments()) == 1


def test_smooth_flow_is_small(store):
    """A field like a camera's takes a few bits per vector."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 144), indexing="ij")
    displacement = torch.stack([5 + 8 * x, 3 * y - 2 * x], dim=-1)[None, None]
    segment = make_segment(pairs=((0, 1),))
    info = dataclasses.replace(segment.info, size=(96, 144))
    path = store.write(
        Segment(info, segment.images[:0], Flow(segment.flow.pairs, displacement, torch.ones(1, 1, 96, 144)))
    )
    assert path.stat().st_size < 96 * 144 * 2 * 4 / 16
