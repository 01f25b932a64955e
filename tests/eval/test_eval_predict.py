"""Samples are made once, resumed, and fail one by one with their reasons."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from synthetic_room import intrinsics_of, render, walk
from tiny_model import tiny_model

from flow3r.data.frame import Frame
from flow3r.errors import InputError
from flow3r.eval.benchmarks.manifests import Draw
from flow3r.eval.methods import identity_method, model_method
from flow3r.eval.predict import failure_path, predict, sample_path
from flow3r.eval.samples import Sample, read_sample

SIZE = (60, 84)


class Room:
    """A walk through the room as a sequence of posed frames."""

    def __init__(self, name: str, count: int = 6):
        self.name, self.poses = name, walk(count)

    def __len__(self):
        return len(self.poses)

    def timestamps(self):
        return np.arange(len(self), dtype=np.float64)

    def frames(self, indices):
        for index in indices:
            intrinsics = intrinsics_of(70.0, SIZE)
            depth, _, image = render(self.poses[index], intrinsics, SIZE)
            yield Frame(image, float(index), f"{index}", depth.astype(np.float32), intrinsics, self.poses[index])


@dataclass
class Watched:
    """A method that keeps what it was shown, and raises on the sequences named."""

    name: str = "watched"
    fingerprint: str = "1"
    shown: list = field(default_factory=list)
    fails: tuple = ()

    def __call__(self, frames, pairs) -> Sample:
        self.shown.append((frames, pairs))
        if len(self.shown) in self.fails:
            raise RuntimeError("out of luck")
        return identity_method((4, 9))(frames, pairs)


SEQUENCES = {name: Room(name) for name in ("a", "b/c")}
DRAWS = [Draw("rooms", name, k, 2, (1 - k, 3, 5), 6) for name in SEQUENCES for k in (0, 1)]


def run(method, folder):
    return list(predict(method, DRAWS, SEQUENCES, folder))


def test_every_draw_has_its_sample_and_a_second_run_makes_none(tmp_path):
    method = Watched()
    first = run(method, tmp_path)
    assert [p.made for p in first] == [True] * 4 and not any(p.reason for p in first)
    before = {p.path: p.path.read_bytes() for p in first}
    again = run(method, tmp_path)
    assert len(method.shown) == 4 and not any(p.made for p in again)
    assert {p.path: p.path.read_bytes() for p in again} == before
    assert read_sample(tmp_path / "b" / "c" / "1.npz").frames.tolist() == [0, 3, 5]


def test_draws_of_the_same_frames_are_predicted_once(tmp_path):
    method, draws = (
        Watched(),
        [Draw("rooms", "a", k, 1, frames, 6) for k, frames in enumerate([(0, 1), (0, 2), (0, 1)])],
    )
    done = list(predict(method, draws, SEQUENCES, tmp_path))
    assert [p.made for p in done] == [True] * 3 and len(method.shown) == 2
    assert done[0].path.read_bytes() == done[2].path.read_bytes() != done[1].path.read_bytes()
    done[2].path.unlink()  # a run that was stopped, and goes on
    assert [p.made for p in predict(method, draws, SEQUENCES, tmp_path)] == [False, False, True]
    assert done[0].path.read_bytes() == done[2].path.read_bytes() and len(method.shown) == 2
    method.fingerprint = "2"  # other weights: what was made is not shared with it
    assert all(p.made for p in predict(method, draws, SEQUENCES, tmp_path)) and len(method.shown) == 4


def test_no_label_reaches_a_method(tmp_path):
    method = Watched()
    run(method, tmp_path)
    for frames, _ in method.shown:
        for frame in frames:
            assert frame.depth is frame.intrinsics is frame.world_from_camera is None


def test_other_weights_or_other_frames_make_samples_anew(tmp_path):
    run(Watched(), tmp_path)
    other = Watched(fingerprint="other")
    assert all(p.made for p in run(other, tmp_path)) and len(other.shown) == 4
    moved = [replace(draw, frames=(0, 2, 4)) for draw in DRAWS]
    assert all(p.made for p in predict(other, moved, SEQUENCES, tmp_path))


def test_a_method_that_raises_costs_one_sample_and_is_asked_again(tmp_path):
    found = run(Watched(fails=(2,)), tmp_path)
    assert [bool(p.reason) for p in found] == [False, True, False, False]
    assert json.loads(failure_path(found[1].path).read_text())["reason"] == "RuntimeError: out of luck"
    again = run(Watched(), tmp_path)
    assert [p.made for p in again] == [False, True, False, False]
    assert not failure_path(found[1].path).exists()


def test_a_sequence_that_is_not_there_is_named(tmp_path):
    missing = [replace(DRAWS[0], sequence="z")]
    (found,) = predict(Watched(), missing, SEQUENCES, tmp_path)
    assert "z: no such sequence" in found.reason


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", ""])
def test_no_sequence_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="not a sequence name"):
        sample_path(tmp_path, replace(DRAWS[0], sequence=name))


def test_a_model_answers_on_its_own_grid_with_the_flow_that_is_asked_for():
    method = model_method(tiny_model(), name="tiny")
    sample = method(list(Room("a").frames(range(3))), [(0, 1), (2, 0)])
    assert sample.flow.shape == (2, *sample.size, 2) and sample.pairs.tolist() == [[0, 1], [2, 0]]
    low, high = method.tokens
    assert low <= sample.size[0] * sample.size[1] / 14**2 <= high
    centre = np.linalg.inv(sample.grid_from_image[0]) @ [sample.size[1] / 2, sample.size[0] / 2, 1]
    np.testing.assert_allclose(centre, [SIZE[1] / 2, SIZE[0] / 2, 1], atol=1e-9)  # a centred crop


def test_other_weights_have_another_fingerprint():
    model = tiny_model()
    before = model_method(model).fingerprint
    assert model_method(model).fingerprint == before
    next(model.parameters()).data += 1
    assert model_method(model).fingerprint != before
