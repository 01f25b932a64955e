"""What training is told to cost against what is counted and held while it runs; forecasts of every preset."""

import dataclasses
import functools

import pytest
import torch
from live_memory import LiveMemory
from tiny_model import TINY, TINY_VGGT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flow3r.config import DataConfig, ModelConfig, SourceConfig, TrainConfig, VggtConfig
from flow3r.data.mixture import draw_pairs, grids
from flow3r.data.worlds import render_worlds
from flow3r.errors import InputError
from flow3r.losses.objective import OBJECTIVES, Objective
from flow3r.presets import PRESETS, PUBLISHED
from flow3r.train.cost import Shape, copies_bytes, parameter_counts, saved_bytes, state_bytes, step_flops
from flow3r.train.forecast import ASSUMED_SHARE, H100_PEAK, forecast
from flow3r.train.learner import initial_model, needs_of, predict
from flow3r.train.optim import AveragedWeights, freeze_all_but, make_optimizer
from flow3r.types import Prediction, Views

SHAPE = Shape(scenes=2, views=3, rows=6, columns=4)
DATA = DataConfig(tokens=(20, 30), pairs_per_scene=3, views=(2, 4), images_per_batch=6)
FROZEN = ("flow_head.",)
FP32, BF16 = torch.float32, torch.bfloat16
FAMILIES = pytest.mark.parametrize("model", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])


def run_of(model: ModelConfig | VggtConfig, kind: str | None = "factored", **changes) -> TrainConfig:
    flow = dataclasses.replace(model.flow, kind=kind) if kind else None
    return TrainConfig("tiny", dataclasses.replace(model, flow=flow), data=DATA, **changes)


@functools.cache
def rendered() -> Views:
    pairs = draw_pairs(SHAPE.scenes, SHAPE.views, DATA.pairs_per_scene, torch.Generator().manual_seed(0))
    return render_worlds(range(SHAPE.scenes), SHAPE.views, (14 * SHAPE.rows, 14 * SHAPE.columns), pairs=pairs).views


class Step:
    """Forward and backward pass of a run on a batch of SHAPE, labelled or not."""

    def __init__(self, config: TrainConfig, labelled: bool, dtype: torch.dtype = FP32):
        views = rendered()
        if config.model.flow is None:
            views = dataclasses.replace(views, flow=None)
        if not labelled:
            views = dataclasses.replace(views, depth=None, intrinsics=None, world_from_camera=None, dense=None)
        self.views, self.config = views, dataclasses.replace(config, precision=str(dtype).removeprefix("torch."))
        self.model = initial_model(self.config).train()
        freeze_all_but(self.model, config.trainable)

    def forward(self) -> tuple[Prediction, Objective]:
        prediction = predict(self.model, self.views, needs_of(self.views, self.config), self.config)
        objective = OBJECTIVES[type(self.config.model)]
        return prediction, objective(prediction, self.views, self.config.loss, torch.Generator().manual_seed(0))

    def counted_flops(self) -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.forward()[1].total.backward()
        return counter.get_total_flops()

    def most_bytes(self) -> int:
        """Held at most beside weights and labels, gradients included."""
        given = [*self.model.state_dict().values(), *(x for x in vars(self.views).values() if torch.is_tensor(x))]
        flow = self.views.flow
        given += [] if flow is None else [flow.displacement, flow.covisible]
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # as on a GPU: no scores are kept
            self.forward()  # fills the caches of small tables
            with LiveMemory(*given) as live:
                prediction, objective = self.forward()
                objective.total.backward()
                del prediction
        return live.peak


@FAMILIES
@pytest.mark.parametrize(
    ("recompute", "kind", "labelled", "trainable"),
    [
        ("nothing", None, True, ("",)),
        ("nothing", "factored", True, ("",)),
        ("nothing", "tracking", False, ("",)),
        ("nothing", "projective", False, ("",)),
        ("nothing", "factored", True, FROZEN),
        ("selective", "factored", False, ("",)),
        ("everything", "factored", True, ("",)),
        ("everything", "tracking", False, ("",)),
        ("everything", "factored", False, FROZEN),
    ],
)
def test_operations_are_those_that_run_forward_backward_and_again(model, recompute, kind, labelled, trainable):
    config = run_of(model, kind, recompute=recompute, trainable=trainable)
    told = step_flops(config, dataclasses.replace(SHAPE, labelled=labelled))
    assert 0.98 < told / Step(config, labelled).counted_flops() < 1.05


@FAMILIES
@pytest.mark.parametrize(
    ("recompute", "kind", "labelled", "trainable", "dtype"),
    [
        ("nothing", None, True, ("",), FP32),
        ("nothing", "factored", False, ("",), BF16),
        ("selective", "factored", True, ("",), BF16),
        ("selective", "tracking", False, ("",), FP32),
        ("everything", "factored", True, ("",), FP32),
        ("everything", "factored", True, FROZEN, FP32),
    ],
)
def test_activations_are_about_what_is_held(model, recompute, kind, labelled, trainable, dtype):
    config = run_of(model, kind, recompute=recompute, trainable=trainable)
    told = saved_bytes(config, dataclasses.replace(SHAPE, labelled=labelled), dtype) + copies_bytes(config, dtype)
    assert 0.7 < told / Step(config, labelled, dtype).most_bytes() < 1.3


@FAMILIES
def test_recomputing_keeps_less_and_computes_more(model):
    runs = [run_of(model, recompute=recompute) for recompute in ("nothing", "selective", "everything")]
    flops = [step_flops(run, SHAPE) for run in runs]
    assert flops == sorted(flops) and flops[0] < flops[1] < flops[2] < 4 / 3 * flops[0]
    large = Shape(12, 2, 36, 36)
    kept = [saved_bytes(run, large, BF16) for run in runs]
    assert kept[0] > kept[1] > kept[2]


@pytest.mark.parametrize("trainable", [("",), FROZEN], ids=["all", "flow head"])
def test_state_is_what_an_optimizer_holds_after_a_step(trainable):
    config = run_of(TINY, trainable=trainable, ema=0.999)
    step = Step(config, labelled=True)
    optimizer = make_optimizer(step.model, config.optim)
    step.forward()[1].total.backward()
    optimizer.step()
    parameters = list(step.model.parameters())
    moments = sum(m.nbytes for state in optimizer.state.values() for m in state.values() if m.ndim)
    assert state_bytes(config) == {
        "weights": sum(p.nbytes for p in parameters),
        "gradients": sum(p.nbytes for p in parameters if p.requires_grad),
        "moments": moments,
        "averaged weights": sum(tensor.nbytes for tensor in AveragedWeights(step.model, config.ema).tensors.values()),
    }


def test_sharding_divides_the_state_and_nothing_else():
    whole = dataclasses.replace(run_of(TINY), devices=4, precision="bfloat16")
    parts = dataclasses.replace(whole, parallel="shard")
    for name, count in state_bytes(whole).items():
        assert 0 <= 4 * state_bytes(parts)[name] - count < 4
    assert forecast(parts).memory["activations"] == forecast(whole).memory["activations"]


def test_full_training_holds_sixteen_bytes_a_parameter():
    config = PRESETS["flow3r"]
    every, trained, _ = parameter_counts(config.model, config.trainable)
    assert every == trained == 1_001_053_694 and sum(state_bytes(config).values()) == 16 * every


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_forecast(name):
    config = PRESETS[name]
    told = forecast(config, device="cpu" if config.devices == 1 else None)
    assert told.config == config and 0 < told.hours < 500 and told.device_hours == told.hours * config.devices
    assert sum(share for *_, share in told.sources) == pytest.approx(1)
    assert told.images_per_step <= config.devices * max(config.data.images_per_batch, config.data.small_images)
    assert sum(told.memory.values()) < 80e9  # an H100 holds it
    lines = told.lines()
    assert lines[0].startswith(f"run        {name}: {config.steps:,} steps") and all(len(line) < 200 for line in lines)


def test_an_assumed_rate_is_called_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assumed, measured = forecast(PRESETS["flow3r"]), forecast(PRESETS["flow3r"], device="cpu")
    assert assumed.rate.per_second == ASSUMED_SHARE * H100_PEAK
    assert "ASSUMED" in "\n".join(assumed.lines()) and "ASSUMED" not in "\n".join(measured.lines())
    assert assumed.flops_per_step == measured.flops_per_step
    with pytest.raises(InputError, match="device nowhere"):
        forecast(PRESETS["flow3r"], device="nowhere")


def test_the_warm_up_costs_less_than_a_third_of_a_full_step():
    warmup, full = (forecast(PRESETS[name]) for name in ("flow3r-warmup", "table5-pi3-labelled-flow"))
    assert warmup.flops_per_step < full.flops_per_step / 3 and warmup.trained < 0.05 * warmup.parameters
    assert sum(warmup.memory.values()) < sum(full.memory.values()) / 2


def test_images_of_a_step_are_the_mean_over_numbers_of_views():
    """With 24 images to a batch, 13 views leave room for no second scene: 20.3 images on the mean."""
    per_batch = sum(24 // views * views for views in range(2, 25)) / 23
    assert forecast(PRESETS["flow3r"]).images_per_step == pytest.approx(8 * per_batch)


def test_a_few_grids_stand_for_all():
    config = dataclasses.replace(PRESETS["flow3r"], data=dataclasses.replace(PRESETS["flow3r"].data, views=(8, 8)))
    every = grids(config.data.tokens, config.data.aspect)
    mean = sum(step_flops(config, Shape(3, 8, *grid)) for grid in every) / len(every)
    labelled = dataclasses.replace(config, data=dataclasses.replace(config.data, unlabelled=()))
    assert forecast(labelled).flops_per_step == pytest.approx(8 * mean, rel=0.01)


def test_sequences_are_counted_where_they_are_known():
    told = forecast(PRESETS["flow3r"])
    assert told.sequences("unlabelled") == sum(PUBLISHED[s.dataset] for s in PRESETS["flow3r"].data.unlabelled)
    static = forecast(PRESETS["table1-static-flow-factored"])
    assert (static.sequences("labelled"), static.sequences("unlabelled")) == (1_000, 1_000)
    assert static.visits("labelled") == static.visits("unlabelled") > 100
    exposures, base = (forecast(PRESETS[f"table1-static-3d-sup{arm}"]) for arm in ("-exposures", ""))
    assert exposures.visits("labelled") == pytest.approx(static.visits("labelled"))
    assert base.visits("labelled") == pytest.approx(2 * static.visits("labelled"))
    unknown = dataclasses.replace(run_of(TINY), data=dataclasses.replace(DATA, labelled=(SourceConfig("mine"),)))
    lines = forecast(unknown).lines()
    assert forecast(unknown).sequences("labelled") is None and any(
        line.startswith("labelled   ? seq") for line in lines
    )


def test_clips_that_are_given_take_their_share_of_the_steps():
    without, given = forecast(run_of(TINY)), forecast(run_of(TINY), clips=7)
    assert [kind for kind, *_ in without.sources] == ["labelled"]
    assert [(kind, count, share) for kind, _, count, share in given.sources] == [
        ("labelled", None, 0.5),
        ("unlabelled", 7, 0.5),
    ]
    assert given.flops_per_step < without.flops_per_step
