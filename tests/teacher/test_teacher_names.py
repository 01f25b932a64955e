"""Teachers by name: every name finds its teacher, a slip of the pen finds a guess, and labelling takes them all."""

import json
import re
import sys

import pytest
import torch
from exact_world import ExactWorld
from fake_networks import WEIGHTS, fake_ptlflow
from PIL import Image

from flow3r.adapt import label
from flow3r.data.labels import LabelStore
from flow3r.errors import InputError
from flow3r.teacher import TEACHERS, teacher_called
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.types import Teacher


@pytest.fixture(scope="module")
def world() -> ExactWorld:
    return ExactWorld(3, 3, (96, 128))


@pytest.fixture()
def ptlflow(world, tmp_path, monkeypatch) -> None:
    """A fake of the package, and its weights where torch.hub looks for them."""
    monkeypatch.setitem(sys.modules, "ptlflow", fake_ptlflow(world, lambda flow: flow))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(WEIGHTS, tmp_path / "torch" / "hub" / "checkpoints" / "fake-things-00000000.ckpt")


def test_names_find_teachers_that_keep_the_protocol(world, ptlflow):
    assert teacher_called("classical") == ClassicalTeacher()
    assert teacher_called("classical", long_side=128) == ClassicalTeacher(long_side=128)
    exact = teacher_called("exact", geometry=world.views)
    flow = teacher_called("ptlflow:sea_raft_m", accept_license=True)
    both = teacher_called("consensus:classical+ptlflow:sea_raft_m", tolerance=0.01)
    assert (flow.model, both.tolerance, [t.name for t in both.teachers]) == (
        "sea_raft_m",
        0.01,
        ["classical", "ptlflow"],
    )
    assert all(isinstance(teacher, Teacher) for teacher in (exact, flow, both))
    assert both.device == flow.device
    assert both.parameters["teachers"][1] == ["ptlflow", flow.parameters]


def test_every_teacher_bears_its_name():
    assert all(kind.name == name for name, kind in TEACHERS.items())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("clasical", "classical"),
        ("UFM", "ufm"),
        ("romaa", "roma"),
        ("co-tracker", "cotracker"),
        ("ptlflow", "ptlflow:<model>"),
        ("ptflow:raft", "ptlflow:<model>"),
        ("consensus:classical+rafft", "raft"),
        ("consensus:", "consensus:<a>+<b>"),
    ],
)
def test_an_unknown_name_gets_the_nearest_as_a_guess(name, meant):
    with pytest.raises(InputError, match=rf"did you mean {re.escape(meant)}\?.*expected one of classical, "):
        teacher_called(name)


def test_a_name_like_no_other_gets_the_list_alone():
    with pytest.raises(InputError, match="'xyz'; expected one of classical, exact, ufm"):
        teacher_called("xyz")


def test_exact_without_geometry_and_options_that_are_none_say_what_is_expected():
    with pytest.raises(InputError, match="needs geometry"):
        teacher_called("exact")
    with pytest.raises(InputError, match="'flavour'; expected its fields"):
        teacher_called("classical", flavour="vanilla")
    with pytest.raises(InputError, match="expected at least two teachers"):
        teacher_called("consensus:classical")


def test_labelling_takes_a_neural_teacher_by_name_and_says_in_its_store_what_it_was(world, ptlflow, tmp_path):
    """From images on disk to labels on disk, which are the true flow: the frames are as the network knows them."""
    for index, image in enumerate(world.images):
        pixels = (image.movedim(0, -1) * 255).round().byte().numpy()
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{index:03}.png")
    teacher_called("ptlflow:sea_raft_m", accept_license=True)  # once; it is remembered
    summary = label(
        [tmp_path / "frames"], tmp_path / "store", teacher="ptlflow:sea_raft_m", tokens=(48, 48), progress=False
    )
    assert summary.ok and summary.accepted > 0
    said = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert "sea_raft_m" in str(said) and teacher_called("ptlflow:sea_raft_m").parameters["weights_sha256"] in str(said)
    store = LabelStore(tmp_path / "store")
    for segment in store.segments():
        flow = store.clip(segment, frames=[0, 1, 2], rows=[0]).flow
        assert flow.covisible.shape[2:] == (84, 112)  # the frames as a whole
        truth, seen = world.flow(*flow.pairs[0, 0].tolist(), (84, 112))
        known = (flow.covisible[0, 0] > 0) & (seen > 0)
        assert known.float().mean() > 0.2
        assert (flow.displacement[0, 0] - truth).norm(dim=-1)[known].median() < 0.1  # stored in eighths of a pixel
