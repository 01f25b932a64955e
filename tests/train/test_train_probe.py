"""Probes compare gradients of flow and labels at the weights of a step, and leave the run as it would have been."""

import dataclasses
import math
from contextlib import nullcontext

import pytest
import torch
from test_train_loop import CONFIG, ShiftedClips, records, same_weights
from tiny_model import TINY, TINY_VGGT

from flow3r.config import LossConfig, TrainConfig
from flow3r.data.mixture import RenderedWorlds, Source, Wanted
from flow3r.errors import TrainingError
from flow3r.train.distributed import Ranks
from flow3r.train.loop import train
from flow3r.train.measure import norms_and_cosine
from flow3r.train.probe import GradientProbe
from flow3r.train.run import Run
from flow3r.types import Views

NAMES = {"probe/flow", "probe/labelled", "probe/cosine"}
PROBED = dataclasses.replace(CONFIG, probe_every=1, log_every=1, image_every=1000)
LABELS_OFF = dict.fromkeys(("points", "normals", "translation", "rotation", "confidence"), 0.0)


class WorldsAsClips(Source):
    """The very worlds of a labelled step, without their labels; the flow turned around, if so chosen."""

    def __init__(self, sign: float = 1.0):
        self.sign = sign

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        views = RenderedWorlds(CONFIG.data).draw(wanted, generator)
        flow = dataclasses.replace(views.flow, displacement=self.sign * views.flow.displacement)
        return Views(views.images, flow=flow)


def probes(folder) -> dict[int, dict[str, float]]:
    """By finished step, what was probed."""
    return {r["step"]: {name: r[name] for name in NAMES} for r in records(folder) if r.keys() >= NAMES}


def labels_of(config: TrainConfig, **changes) -> TrainConfig:
    """The same with flow on labelled steps left out."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, labelled_flow=False), **changes)


def test_a_run_is_the_same_with_and_without_probes_also_where_it_goes_on(tmp_path):
    plain = dataclasses.replace(PROBED, probe_every=0)
    without = train(plain, tmp_path / "without", clips=ShiftedClips(), quiet=True)
    config = dataclasses.replace(PROBED, probe_every=2)

    def stop_in_step_five(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt  # after the checkpoint of step 4: step 5 is repeated

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "with", clips=ShiftedClips(), quiet=True, on_step=stop_in_step_five)
    probed = train(config, tmp_path / "with", clips=ShiftedClips(), quiet=True)
    assert same_weights(probed.model, without.model)
    assert list(probes(tmp_path / "with")) == [2, 4, 6] and not probes(tmp_path / "without")
    plainly = [{k: v for k, v in r.items() if k not in NAMES} for r in records(tmp_path / "with")]
    assert plainly == records(tmp_path / "without")


@pytest.mark.parametrize("model", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])
def test_the_gradient_of_the_step_s_own_batch_is_the_one_that_the_step_takes(tmp_path, model):
    """Of a labelled step the objective's, of an unlabelled one the flow term's, as the log has it by parts."""
    train(labels_of(PROBED, model=model), tmp_path, clips=ShiftedClips(), quiet=True)
    own, kinds = probes(tmp_path), set()
    assert list(own) == list(range(1, CONFIG.steps + 1))
    for record in records(tmp_path):
        kind = "flow" if "unlabelled/flow" in record else "labelled"
        kinds.add(kind)
        taken = math.hypot(record["grad/encoder"], record["grad/multiview"])
        assert own[record["step"]][f"probe/{kind}"] == pytest.approx(taken, rel=1e-5)
        assert -1 <= own[record["step"]]["probe/cosine"] <= 1
    assert kinds == {"flow", "labelled"}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_both_gradients_are_of_the_same_weights_and_the_same_draws(tmp_path, sign):
    """Where clips are the labelled step's own worlds, and labels teach flow alone, the two gradients are one."""
    config = dataclasses.replace(PROBED, loss=LossConfig(**LABELS_OFF))
    train(config, tmp_path, clips=WorldsAsClips(sign), quiet=True)
    for step, probe in probes(tmp_path).items():
        same = probe["probe/cosine"] == pytest.approx(1, abs=1e-4)
        assert same == (sign > 0), step
        if sign > 0:
            assert probe["probe/flow"] == pytest.approx(probe["probe/labelled"], rel=1e-4)


def test_the_flow_term_counts_with_its_weight(tmp_path):
    first = []
    for weight in (1.0, 3.0):
        config = labels_of(PROBED, steps=1, loss=LossConfig(flow=weight))
        train(config, tmp_path / str(weight), clips=ShiftedClips(), quiet=True)
        first.append(probes(tmp_path / str(weight))[1])
    assert first[1]["probe/flow"] == pytest.approx(3 * first[0]["probe/flow"], rel=1e-4)
    assert first[1]["probe/labelled"] == pytest.approx(first[0]["probe/labelled"], rel=1e-4)
    assert first[1]["probe/cosine"] == pytest.approx(first[0]["probe/cosine"], abs=1e-4)


def test_cosines_are_those_of_the_whole_vectors():
    generator = torch.Generator().manual_seed(0)
    one, other = ([torch.randn(n, 3, generator=generator) for n in (2, 5)] for _ in range(2))
    a, b = (torch.cat([part.flatten() for part in parts]) for parts in (one, other))
    expected = (a.norm().item(), b.norm().item(), torch.cosine_similarity(a, b, dim=0).item())
    assert norms_and_cosine(one, other) == pytest.approx(expected, rel=1e-5)
    nothing = [torch.zeros_like(part) for part in one]
    assert norms_and_cosine(one, nothing) == pytest.approx((expected[0], 0, 0), rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": dataclasses.replace(TINY, flow=None)},
        {"trainable": ("flow_head",)},
        {"data": dataclasses.replace(CONFIG.data, unlabelled_share=1.0)},
        {"probe_every": 0},
    ],
    ids=["no flow", "frozen trunk", "no labelled steps", "not asked for"],
)
def test_without_two_gradients_to_compare_nothing_is_probed(tmp_path, changes):
    run = Run(dataclasses.replace(PROBED, **changes), tmp_path, Ranks(), torch.device("cpu"))
    assert GradientProbe(run, ShiftedClips(), None).every == 0
    assert GradientProbe(run, None, None).measure(Views(torch.zeros(1, 2, 3, 28, 42)), 0) == {}


def test_probes_are_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("flow3r.train.loop.joined_ranks", lambda device: nullcontext(Ranks(0, 2)))
    with pytest.raises(TrainingError, match="probe_every 1 on 2 processes; expected one, or 0"):
        train(PROBED, tmp_path / "run", clips=ShiftedClips(), quiet=True)
    assert not (tmp_path / "run").exists()
