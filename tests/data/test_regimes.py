"""Sets of worlds: nested, apart from each other and from all other worlds, the same in every process."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flow3r.data.mixture import TRAINING_SEEDS
from flow3r.data.regimes import DOMAINS, FRAMES, REGIMES, SIDE, WorldSet
from flow3r.data.worlds import sample_cameras
from flow3r.errors import InputError
from flow3r.geometry.se3 import rotation_angle

SETS = {
    worlds.name: worlds
    for regime in REGIMES.values()
    for worlds in sorted((regime.labelled, regime.unlabelled, regime.validation, regime.test), key=lambda s: s.count)
}


def seeds(worlds: WorldSet) -> list[int]:
    return [worlds.seed(number) for number in range(worlds.count)]


def test_no_two_worlds_of_any_sets_are_the_same():
    """All regimes together: every name of a set at its largest, or another one as large."""
    largest = [WorldSet(d, s, 2000) for d in DOMAINS for s in ("labelled", "unlabelled", "validation", "test")]
    every = [seed for worlds in largest for seed in seeds(worlds)]
    assert len(set(every)) == len(every) == 24_000


def test_worlds_of_sets_are_those_of_no_training_and_no_evaluation():
    """Training draws below 2^40; evaluation with seed s has 2^40 + s 2^20 + k, here for all s and k below 2^40."""
    evaluated = TRAINING_SEEDS + 2**40 * 2**20 + 2**40
    assert all(evaluated < seed < 2**63 for worlds in SETS.values() for seed in seeds(worlds))


def test_in_every_regime_the_four_sets_have_nothing_in_common():
    for regime in REGIMES.values():
        parts = [set(seeds(s)) for s in (regime.labelled, regime.unlabelled, regime.validation, regime.test)]
        assert len(set().union(*parts)) == sum(map(len, parts))


def test_a_smaller_set_is_the_beginning_of_a_larger_one():
    small, large = REGIMES["dynamic"], REGIMES["dynamic-20"]
    assert seeds(small.unlabelled) == seeds(large.unlabelled)[: small.unlabelled.count]
    assert seeds(small.labelled) == seeds(REGIMES["dynamic-4x-labelled"].labelled)[:100]
    assert (small.validation, small.test) == (large.validation, large.test)


def test_regimes_have_the_proportions_of_the_paper():
    for name, ratio in {"static": 1, "dynamic": 3, "dynamic-10": 10, "dynamic-20": 20}.items():
        assert REGIMES[name].unlabelled.count == ratio * REGIMES[name].labelled.count
    assert REGIMES["dynamic-4x-labelled"].labelled.count == 4 * REGIMES["dynamic"].labelled.count
    assert all(regime.test.count == 500 for regime in REGIMES.values())


def test_a_seed_is_the_hash_of_a_name():
    """What stands in reports can be repeated by whoever knows the name: `printf dynamic/test/7 | sha256sum`."""
    digest = hashlib.sha256(b"dynamic/test/7").hexdigest()
    assert bin(WorldSet("dynamic", "test", 500).seed(7)) == "0b1" + f"{int(digest, 16):0256b}"[:62]


@pytest.mark.parametrize(
    ("worlds", "focal", "colour", "depth", "last_x"),
    [
        (WorldSet("static", "labelled", 1), 21.5954, 0.4473, 1.0437, 0.7545),
        (WorldSet("dynamic", "labelled", 1), 16.8821, 0.3361, 2.7984, -1.9485),
        (WorldSet("elsewhere", "unlabelled", 1), 45.0834, 0.3656, 3.4588, 3.0680),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_worlds_that_results_were_had_on_stay_as_they_are(
    worlds: WorldSet, focal: float, colour: float, depth: float, last_x: float
):
    views = worlds.render([0], torch.tensor([[0, 11]]), side=28).views
    pose, middle = views.world_from_camera[0, 1], views.depth.median()
    found = [float(v) for v in (views.intrinsics[0, 0, 0, 0], views.images.mean(), middle, pose[0, 3])]
    assert found == pytest.approx([focal, colour, depth, last_x], abs=2e-3)


def test_another_process_makes_the_same_worlds(tmp_path: Path):
    code = (
        "import sys, numpy, torch; from flow3r.data.regimes import WorldSet; "
        "w = WorldSet('elsewhere', 'unlabelled', 9).render([8], torch.tensor([[1, 6]]), torch.tensor([[[0, 1]]]), "
        "side=28).views; numpy.savez(sys.argv[1], w.images, w.depth, w.flow.displacement)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there.npz")], check=True)
    pair = torch.tensor([[[0, 1]]])
    here = WorldSet("elsewhere", "unlabelled", 2000).render([8], torch.tensor([[1, 6]]), pair, side=28).views
    there = np.load(tmp_path / "there.npz", allow_pickle=False)
    for key, value in zip(there.files, (here.images, here.depth, here.flow.displacement), strict=True):
        torch.testing.assert_close(value, torch.from_numpy(there[key]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("domain", DOMAINS)
def test_frames_of_a_sequence_are_in_the_order_of_time(domain: str):
    worlds = WorldSet(domain, "test", 20)
    rotation = sample_cameras(seeds(worlds), FRAMES, (SIDE, SIDE), config=DOMAINS[domain])[0][..., :3, :3]
    turned = torch.rad2deg(rotation_angle(rotation[:, :1].mT @ rotation))
    assert (turned[:, 4] < turned[:, 8]).all() and (turned[:, 8] < turned[:, 11]).all()
    step = torch.rad2deg(rotation_angle(rotation[:, :-1].mT @ rotation[:, 1:]))
    assert step.max() < 30


def test_the_other_look_has_other_lenses_patterns_and_motion():
    familiar, other = DOMAINS["dynamic"], DOMAINS["elsewhere"]
    assert not set(familiar.patterns) & set(other.patterns) and not set(familiar.details) & set(other.details)
    assert other.fov_degrees[1] < familiar.fov_degrees[1] and other.fov_degrees[0] < familiar.fov_degrees[0]
    assert other.rotation_degrees != familiar.rotation_degrees
    assert DOMAINS["static"].moving_share == 0 and familiar.moving_share == other.moving_share == 1


def test_a_larger_image_shows_the_same_sequence():
    worlds, frames = WorldSet("dynamic", "test", 500), torch.tensor([[0, 5]])
    small, large = (worlds.render([3], frames, side=side).views for side in (28, 56))
    torch.testing.assert_close(small.world_from_camera, large.world_from_camera, atol=1e-4, rtol=0)
    shrunk = torch.nn.functional.avg_pool2d(large.images.flatten(0, 1), 2).view_as(small.images)
    assert (shrunk - small.images).abs().mean() < 0.02


def test_what_is_not_in_a_set_is_refused():
    with pytest.raises(InputError, match=r"worlds 0\.\.99; got 100"):
        WorldSet("dynamic", "test", 100).seed(100)
    for domain, count in (("dynamical", 5), ("dynamic", 0)):
        with pytest.raises(InputError, match="expected at least one of static, dynamic, elsewhere"):
            WorldSet(domain, "test", count)
