"""A teacher's labels of a set of worlds: made once, on the frames of the set, and read as any other store."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Wanted, stream
from flow3r.data.regime_labels import CorrectedClips, label_set, source_names
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError, LabelStoreError
from flow3r.types import Flow, FlowLabels

SET = WorldSet("elsewhere", "unlabelled", 2)


class Westward:
    """A teacher to which everything moves 6 pixels to the left per frame; it refuses neighbours."""

    name: ClassVar[str] = "westward"

    def __init__(self, **parameters: Any):
        self.parameters = parameters
        self.asked: Counter = Counter()  # by the shape of the images

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        self.asked[tuple(images.shape)] += 1
        gap = (pairs[:, 1] - pairs[:, 0])[None, :, None, None]
        shape = (1, len(pairs), *images.shape[2:])
        displacement = torch.stack([-6.0 * gap.expand(shape), torch.zeros(shape)], dim=-1)
        near = gap.abs() == 1
        refusals = tuple("too near" if one else "" for one in near.flatten().tolist())
        return FlowLabels(Flow(pairs[None], displacement, (~near).float().expand(shape)), refusals)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LabelStore:
    return label_set(SET, Westward(), tmp_path_factory.mktemp("labels") / "store")


def test_frames_are_those_of_the_set_and_flow_is_scaled_to_them(store: LabelStore):
    segment = next(one for one in store.segments() if one.source == "elsewhere/unlabelled/1")
    rendered = SET.render([1], torch.arange(FRAMES)[None]).views.images[0]
    stored = store.images(segment, range(FRAMES))
    assert np.abs(stored / 255 - rendered.movedim(1, -1).numpy()).max() <= 0.5 / 255 + 1e-4
    flow = store.flow(segment, range(len(segment.pairs)))
    gap = (flow.pairs[0, :, 1] - flow.pairs[0, :, 0]).float()
    expected = torch.stack([-3.0 * gap, 0 * gap], dim=-1)[:, None, None].expand(-1, SIDE, SIDE, -1)
    torch.testing.assert_close(flow.displacement[0], expected)
    assert segment.median_flow == pytest.approx((3 * gap.abs()).tolist())


def test_refused_pairs_are_named_and_not_learnt_from(store: LabelStore):
    for segment in store.segments():
        assert all(abs(i - j) > 1 for i, j in segment.pairs)
        assert {refusal.reason for refusal in segment.refusals} == {"too near"}
        asked = {*segment.pairs, *((refusal.source, refusal.target) for refusal in segment.refusals)}
        assert len(asked) == 48 and max(abs(i - j) for i, j in asked) <= 8


def test_what_is_labelled_is_not_labelled_again(store: LabelStore):
    teacher = Westward()
    again = label_set(SET, teacher, store.folder)
    assert not teacher.asked and again.segments() == store.segments()


def test_labels_of_another_teacher_or_set_are_not_mixed_in(store: LabelStore):
    for worlds, teacher in ((SET, Westward(speed=2)), (WorldSet("dynamic", "unlabelled", 2), Westward())):
        with pytest.raises(LabelStoreError, match="other settings"):
            label_set(worlds, teacher, store.folder)


def test_the_store_of_a_set_serves_for_a_smaller_one(store: LabelStore):
    clips = LabelClips(store, only=source_names(WorldSet("elsewhere", "unlabelled", 1)))
    wanted = clips.fit(Wanted(0, 6, 3, (56, 56), 2), stream(0, 0, "fit"))
    views = clips.draw(wanted, stream(0, 0, "test"))
    assert views.images.shape == (6, 3, 3, SIDE, SIDE) and not views.labelled
    assert {name.split()[0] for names in views.names for name in names} == {"elsewhere/unlabelled/0"}


def test_labelling_that_was_stopped_goes_on(tmp_path: Path):
    label_set(WorldSet("elsewhere", "unlabelled", 1), Westward(), tmp_path)
    teacher = Westward()
    assert len(label_set(SET, teacher, tmp_path).segments()) == 2
    assert teacher.asked == {(FRAMES, 3, 2 * SIDE, 2 * SIDE): 1}


def test_corrected_clips_differ_from_the_teachers_in_flow_alone(store: LabelStore):
    clips = LabelClips(store)
    wanted = clips.fit(Wanted(0, 3, 3, (56, 56), 4), stream(0, 0, "fit"))
    taught = clips.draw(wanted, stream(0, 0, "test"))
    corrected = CorrectedClips(SET, clips).draw(wanted, stream(0, 0, "test"))
    assert corrected.names == taught.names and corrected.images.equal(taught.images) and not corrected.labelled
    assert corrected.flow.pairs.equal(taught.flow.pairs)
    for scene, names in enumerate(taught.names):
        number, frames = int(names[0].split()[0].split("/")[-1]), [int(name.split()[1]) for name in names]
        exact = SET.render([number], torch.tensor([frames]), taught.flow.pairs[scene : scene + 1]).views.flow
        torch.testing.assert_close(corrected.flow.displacement[scene], exact.displacement[0], atol=1e-3, rtol=1e-4)
        assert corrected.flow.covisible[scene].equal(taught.flow.covisible[scene] * exact.covisible[0])
    error = (corrected.flow.displacement - taught.flow.displacement).norm(dim=-1)
    assert error[corrected.flow.covisible > 0].median() > 1


def test_clips_of_another_set_are_not_corrected(store: LabelStore):
    clips = LabelClips(store)
    wanted = clips.fit(Wanted(0, 1, 2, (56, 56), 2), stream(0, 0, "fit"))
    with pytest.raises(InputError, match="expected the label store of dynamic/unlabelled"):
        CorrectedClips(WorldSet("dynamic", "unlabelled", 2), clips).draw(wanted, stream(0, 0, "test"))
