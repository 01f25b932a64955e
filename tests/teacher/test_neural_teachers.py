"""Neural teachers with fake networks that know the truth: its flow comes back in our conventions, at any size.

Nothing is downloaded: weights are files of the test, or must be refused.
"""

import dataclasses
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exact_world import ExactWorld
from fake_networks import FAKES, WEIGHTS, Twist
from safetensors.torch import save_file
from torch import Tensor

from flow3r.errors import CheckpointError, InputError
from flow3r.model import licences
from flow3r.teacher import TEACHERS, teacher_called
from flow3r.teacher.ptlflow import PtlflowTeacher
from flow3r.types import Teacher

SIZES = [(96, 128), (101, 155), (150, 90)]  # the second and third are multiples of no stride
NAMES = {"raft": "raft", "ptlflow": "ptlflow:sea_raft_m", **{n: n for n in ("ufm", "roma", "romav2", "cotracker")}}
PAIRS = torch.tensor([[0, 1], [2, 0], [1, 0]])
OPEN = {"covisible_share": (0.0, 1.0), "least_motion": 0.0}
SMALL = {"roma": {"coarse": 112, "fine": 176}, "cotracker": {"stride": 3}}
TWISTS: dict[str, Twist] = {
    "sign": lambda flow: -flow,
    "axis order": lambda flow: flow.flip(-1),
    "half a pixel": lambda flow: flow + 0.5,
}


@pytest.fixture(scope="module")
def worlds() -> Callable[[tuple[int, int]], ExactWorld]:
    made: dict[tuple[int, int], ExactWorld] = {}
    return lambda size: made.setdefault(size, ExactWorld(3, 3, size))


@pytest.fixture()
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of every teacher, where its package or torch.hub would have put them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    names = ("raft_large_C_T_SKHT_V2-ff5fadd5.pth", "fake-things-00000000.ckpt", "roma_outdoor.pth")
    for name in (*names, "dinov2_vitl14_pretrain.pth", "romav2.0.1.pt", "scaled_offline.pth"):
        torch.save(WEIGHTS, folder / name)
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture()
def made(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Teacher]:
    """A teacher by its key in FAKES, over a fake of its package."""

    def make(key: str, world: ExactWorld, twist: Twist = lambda flow: flow, **options: object) -> Teacher:
        package = FAKES[key](world, twist)
        monkeypatch.setitem(sys.modules, package.__name__, package)
        own = {"weights": str(weights)} if key == "ufm" else {}
        return teacher_called(NAMES[key], device="cpu", accept_license=True, **own, **SMALL.get(key, {}), **options)

    return make


def errors(teacher: Teacher, world: ExactWorld, pairs: Tensor = PAIRS) -> tuple[Tensor, Tensor, Tensor]:
    """Of all labelled pixels: end-point errors, whether they are truly covisible; of the truly covisible: labelled."""
    labels = teacher(world.images, pairs)
    assert labels.refusals == ("",) * len(pairs)
    error, true, found = [], [], []
    for row, (i, j) in enumerate(pairs.tolist()):
        flow, seen = world.flow(i, j, world.size)
        known = labels.flow.covisible[0, row] > 0
        error.append((labels.flow.displacement[0, row] - flow).norm(dim=-1)[known])
        true.append(seen[known] > 0)
        found.append(known[seen > 0])
    return torch.cat(error), torch.cat(true), torch.cat(found)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("key", FAKES)
def test_a_network_that_knows_the_truth_makes_a_teacher_that_tells_it(key, size, worlds, made):
    error, true, found = errors(made(key, worlds(size), **OPEN), worlds(size))
    assert error.median() < 0.01
    assert error.quantile(0.9) < 0.05  # the rest lies at edges of things, where flow is averaged or interpolated
    assert true.float().mean() > 0.95
    assert found.float().mean() > 0.75


@pytest.mark.parametrize("twist", TWISTS)
@pytest.mark.parametrize("key", FAKES)
def test_every_mistaken_convention_would_be_seen(key, twist, worlds, made):
    world, loose = worlds(SIZES[0]), {} if key == "cotracker" else {"both_ways": False}
    error, _, _ = errors(made(key, world, TWISTS[twist], **OPEN, **loose), world, PAIRS[:1])
    assert error.median() > 0.2


@pytest.mark.parametrize("key", [key for key in FAKES if key != "cotracker"])
def test_labels_do_not_depend_on_batches_or_on_what_else_is_asked(key, worlds, made):
    world = worlds(SIZES[0])
    together = made(key, world, batch=3)(world.images, PAIRS)
    for row in range(len(PAIRS)):
        alone = made(key, world, batch=1)(world.images, PAIRS[row : row + 1])
        assert torch.equal(together.flow.displacement[:, row], alone.flow.displacement[:, 0])
        assert torch.equal(together.flow.covisible[:, row], alone.flow.covisible[:, 0])


def test_both_directions_of_a_pair_cost_a_network_two_runs_not_four(worlds, made):
    world, runs = worlds(SIZES[0]), []
    teacher = made("raft", world, lambda flow: runs.append(len(flow)) or flow)
    teacher(world.images, torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1]]))
    assert runs == [1, 1]


def test_flow_back_takes_away_what_a_network_wrongly_believes(worlds, made):
    """Of this network the flow forth is half a frame off, and it is sure of it."""
    world = worlds(SIZES[0])

    def twist(flow: Tensor) -> Tensor:
        return flow + 40 * (flow[:, :1, :1, :1] > 0)

    labelled = [
        (made("ufm", world, twist, both_ways=check, **OPEN)(world.images, PAIRS[:1]).flow.covisible > 0).float().mean()
        for check in (False, True)
    ]
    assert labelled[0] > 0.2 and labelled[1] < 0.1 * labelled[0]


def test_pairs_that_teach_nothing_are_refused_with_a_reason(worlds, made):
    world = worlds(SIZES[0])

    def reason(pair: list[int], twist: Twist = lambda flow: flow, **options: object) -> str:
        labels = made("ufm", world, twist, **options)(world.images, torch.tensor([pair]))
        assert bool(labels.refusals[0]) == (labels.flow.covisible.max() == 0)
        return labels.refusals[0].split(" (")[0]

    assert reason([1, 1]) == "same frame"
    assert reason([0, 1]) == ""
    assert reason([0, 1], lambda flow: 0 * flow) == "near-static"
    assert reason([0, 1], lambda flow: flow + 1000) == "too little covisible"
    assert reason([0, 1], lambda flow: flow * torch.nan) == "too little covisible"
    assert reason([0, 1], covisible_share=(0.0, 0.1)) == "nothing hidden"
    assert reason([0, 1], threshold=0.95) == "too little covisible"  # the fake is never surer than 0.9


@pytest.mark.parametrize("key", FAKES)
def test_parameters_are_all_that_changes_labels_and_fit_into_a_manifest(key, worlds, made, weights):
    world = worlds(SIZES[0])
    said = made(key, world).parameters
    assert json.loads(json.dumps(said)) == said
    assert len(said["weights_sha256"]) == 64 and "0.0-fake" in said["package"]
    assert made(key, world, batch=7).parameters == said
    assert made(key, world, erosion=2).parameters == {**said, "erosion": 2}
    for file in weights.iterdir():
        file.write_bytes(file.read_bytes() + b" ")
    assert made(key, world).parameters["weights_sha256"] != said["weights_sha256"]


@pytest.mark.parametrize("key", FAKES)
def test_a_teacher_travels_to_other_processes_without_its_network(key, worlds, made):
    teacher = made(key, worlds(SIZES[0]))
    before = len(pickle.dumps(teacher))
    if key != "romav2":  # whose network is of a class that cannot be looked up
        assert teacher.network is teacher.network
    copy = pickle.loads(pickle.dumps(teacher))
    assert copy == teacher and len(pickle.dumps(teacher)) == before
    assert torch.device(copy.device).type == "cpu"  # what a source of training clips asks it


@pytest.mark.parametrize("key", FAKES)
def test_a_missing_package_is_named_with_how_to_install_it_and_its_licences(key, monkeypatch):
    kind = {**TEACHERS, "ptlflow": PtlflowTeacher}[key]
    monkeypatch.setitem(sys.modules, kind.package.module, None)
    with pytest.raises(InputError) as caught:
        teacher_called(NAMES[key], device="cpu")
    for part in (kind.package.module, kind.package.install, kind.package.licence, kind.licence.terms):
        assert part in str(caught.value)


@pytest.fixture()
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A user who accepted nothing, an empty cache, and the URLs that were asked for."""
    asked: list[str] = []

    def download(url: str, path: str, *_: object, **__: object) -> None:
        asked.append(url)
        torch.save(WEIGHTS, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(licences, "_DONE", {})
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


@pytest.mark.parametrize("key", ["raft", "ptlflow", "roma", "romav2", "cotracker"])
def test_weights_are_downloaded_only_once_their_licence_is_accepted(key, worlds, downloads, monkeypatch):
    package = FAKES[key](worlds(SIZES[0]), lambda flow: flow)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    with pytest.raises(CheckpointError, match=r"not in .*torch.*--accept-license"):
        teacher_called(NAMES[key], device="cpu")
    assert downloads == []
    files = teacher_called(NAMES[key], device="cpu", accept_license=True).weight_files()
    assert len(downloads) == len(files) and all(file.is_file() for file in files)
    assert teacher_called(NAMES[key], device="cpu").weight_files() == files  # remembered
    assert len(downloads) == len(files)


def test_weights_of_ufm_are_not_downloaded_unasked(worlds, downloads, monkeypatch):
    package = FAKES["ufm"](worlds(SIZES[0]), lambda flow: flow)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    with pytest.raises(CheckpointError, match=r"CC BY-NC-SA 4.0.*--accept-license"):
        teacher_called("ufm", device="cpu")
    with pytest.raises(CheckpointError, match=r"no such file; expected weights"):
        teacher_called("ufm", device="cpu", weights="nowhere")


def test_settings_that_do_not_exist_are_refused(worlds, made):
    for name, options in (
        ("ufm", {"variant": "huge"}),
        ("raft", {"network_size": "medium"}),
        ("roma", {"coarse": 100}),
        ("roma", {"scenes": "underwater"}),
        ("cotracker", {"stride": 0}),
    ):
        with pytest.raises(InputError, match="expected"):
            teacher_called(name, device="cpu", **options)
    with pytest.raises(InputError, match="no weights 'C_T_V9'; expected one of C_T_SKHT_V2"):
        made("raft", worlds(SIZES[0]), checkpoint="C_T_V9")
    with pytest.raises(InputError, match="no model 'see_raft_m'; did you mean sea_raft_m"):
        teacher = made("ptlflow", worlds(SIZES[0]))
        dataclasses.replace(teacher, model="see_raft_m").weight_files()
    with pytest.raises(InputError, match="loads its public weights by itself"):
        made("romav2", worlds(SIZES[0]), weights="mine.pt")
