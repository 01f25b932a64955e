import copy
import dataclasses
import json
import types
from collections import Counter

import pytest
import torch
from tiny_model import TINY

from flow3r.config import DataConfig, OptimConfig, SourceConfig, TrainConfig
from flow3r.data.mixture import RenderedWorlds, Source, Wanted, draw_pairs
from flow3r.errors import CheckpointError, TrainingError
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.flow3r import Flow3r
from flow3r.train import loop
from flow3r.train.learner import initial_model
from flow3r.train.loop import train
from flow3r.types import Flow, Views

CONFIG = TrainConfig(
    name="test",
    model=TINY,
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
    data=DataConfig(views=(2, 2), images_per_batch=4, tokens=(9, 12), pairs_per_scene=2, workers=0, augment=False),
    steps=6,
    precision="float32",
    checkpoint_every=2,
    log_every=1,
    image_every=4,
)


class ShiftedClips(Source):
    """Unlabelled clips: random texture moved by a constant flow, which is the label."""

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        chosen = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator)
        flow = torch.full((*chosen.shape[:2], *wanted.size, 2), 3.0)
        images = torch.rand(wanted.scenes, wanted.views, 3, *wanted.size, generator=generator)
        return Views(images, flow=Flow(chosen, flow, torch.ones(flow.shape[:-1])))


class CountedClips(ShiftedClips):
    """The same, which counts its clips as it draws."""

    def __init__(self):
        self.drawn = Counter()

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        self.drawn["clips drawn"] += wanted.scenes
        return super().draw(wanted, generator)

    def counts(self) -> Counter[str]:
        return self.drawn


PACE = {"steps/s", "images/s", "data_wait", "memory_gb"}  # what no two runs have in common


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in PACE} for line in lines]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Stop(Exception):
    pass


def stop_in_step_five(step: int, loss: float) -> None:
    if step == 5:
        raise Stop  # after the checkpoint of step 4: step 5 is lost and must be repeated


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(CONFIG, tmp_path / "whole", clips=ShiftedClips(), quiet=True)
    with pytest.raises(Stop):
        train(CONFIG, tmp_path / "cut", clips=ShiftedClips(), quiet=True, on_step=stop_in_step_five)
    resumed = train(CONFIG, tmp_path / "cut", clips=ShiftedClips(), quiet=True)
    assert same_weights(whole.model, resumed.model)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    assert [r["step"] for r in records(tmp_path / "cut")] == list(range(1, 7))


def test_what_sources_counted_before_a_run_was_stopped_is_still_logged_after(tmp_path):
    train(CONFIG, tmp_path / "whole", clips=CountedClips(), quiet=True)
    with pytest.raises(Stop):
        train(CONFIG, tmp_path / "cut", clips=CountedClips(), quiet=True, on_step=stop_in_step_five)
    train(CONFIG, tmp_path / "cut", clips=CountedClips(), quiet=True)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")
    counts = [record.get("clips drawn", 0) for record in records(tmp_path / "cut")]
    assert counts == sorted(counts) and counts[4] > counts[3] > 0


def test_loss_falls_on_a_flow_that_can_be_learnt(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        steps=200,
        checkpoint_every=1000,
        image_every=1000,
        log_every=100,
        optim=OptimConfig(learning_rate=2e-2, warmup_steps=20),
        data=dataclasses.replace(CONFIG.data, unlabelled_share=1.0),
    )
    losses: list[float] = []
    train(config, tmp_path, clips=ShiftedClips(), quiet=True, on_step=lambda step, loss: losses.append(loss))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_finished_run_is_left_alone_and_can_be_made_longer(tmp_path):
    first = train(CONFIG, tmp_path, quiet=True)
    again = train(CONFIG, tmp_path, quiet=True)
    assert again.steps == 6 and same_weights(first.model, again.model)
    longer = train(dataclasses.replace(CONFIG, steps=8), tmp_path, quiet=True)
    assert longer.steps == 8 and not same_weights(first.model, longer.model)


def test_another_configuration_is_refused(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    changed = dataclasses.replace(CONFIG, seed=1, optim=OptimConfig(learning_rate=1.0))
    with pytest.raises(TrainingError, match=r"other optim\.warmup_steps, seed"):
        train(changed, tmp_path, quiet=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    train(dataclasses.replace(CONFIG, steps=2), tmp_path, quiet=True)
    tensors = tmp_path / "checkpoints" / "step_00000002" / "__0_0.distcp"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"step_00000002.*start anew"):
        train(CONFIG, tmp_path, quiet=True)


def test_non_finite_loss_stops_and_keeps_the_batch(tmp_path):
    class Poison(ShiftedClips):
        def draw(self, *arguments) -> Views:
            views = super().draw(*arguments)
            flow = dataclasses.replace(views.flow, displacement=views.flow.displacement * torch.nan)
            return dataclasses.replace(views, flow=flow)

    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, unlabelled_share=1.0))
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        train(config, tmp_path, clips=Poison(), quiet=True)
    batch = torch.load(tmp_path / "non_finite_step_0.pt", weights_only=True)
    assert batch["flow.displacement"].isnan().all() and batch["images"].ndim == 5


def test_time_bounds_a_run_and_leaves_it_complete(tmp_path):
    result = train(dataclasses.replace(CONFIG, steps=10_000), tmp_path, seconds=1e-6, quiet=True)
    assert result.steps == 1
    assert same_weights(load_model(result.weights), result.model)


@pytest.fixture
def clips_of_a_second(monkeypatch) -> ShiftedClips:
    """Clips, each batch of which takes a second of the loop's time, which stands still otherwise."""

    class Slow(ShiftedClips):
        now = 1000.0

        def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
            self.now += 1.0
            return super().draw(wanted, generator)

    clips = Slow()
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clips.now))
    return clips


UNTIL_TIME_ENDS = dataclasses.replace(CONFIG, steps=10_000, data=dataclasses.replace(CONFIG.data, unlabelled_share=1.0))


def test_a_run_bounded_by_time_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, clips_of_a_second):
    given = {"clips": clips_of_a_second, "seconds": 6.0, "quiet": True}
    whole = train(UNTIL_TIME_ENDS, tmp_path / "whole", **given)
    with pytest.raises(Stop):
        train(UNTIL_TIME_ENDS, tmp_path / "cut", on_step=stop_in_step_five, **given)
    resumed = train(UNTIL_TIME_ENDS, tmp_path / "cut", **given)
    assert (resumed.steps, resumed.seconds) == (whole.steps, whole.seconds) == (6, 6.0)
    assert same_weights(whole.model, resumed.model)
    assert records(tmp_path / "whole") == records(tmp_path / "cut")  # learning rates among them


def test_a_run_ended_by_time_is_left_alone_and_goes_on_with_more(tmp_path, clips_of_a_second):
    first = train(UNTIL_TIME_ENDS, tmp_path, clips=clips_of_a_second, seconds=3.0, quiet=True)
    again = train(UNTIL_TIME_ENDS, tmp_path, clips=clips_of_a_second, seconds=3.0, quiet=True)
    assert first.steps == again.steps == 3 and same_weights(first.model, again.model)
    longer = train(UNTIL_TIME_ENDS, tmp_path, clips=clips_of_a_second, seconds=5.0, quiet=True)
    assert (longer.steps, longer.seconds) == (5, 5.0)


def test_what_is_done_every_0_steps_is_done_at_the_end_alone(tmp_path):
    never = dict.fromkeys(("log_every", "image_every", "validate_every", "checkpoint_every", "probe_every"), 0)
    config = dataclasses.replace(CONFIG, steps=3, **never)
    train(config, tmp_path, validation=lambda model: {"error": 1.0}, quiet=True)
    assert [record["step"] for record in records(tmp_path)] == [3]
    assert "loss" in records(tmp_path)[0] and records(tmp_path)[0]["validation/error"] == 1.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]
    assert not (tmp_path / "pictures").exists()


def test_stages_chain_and_frozen_parts_keep_their_bytes(tmp_path):
    start = Flow3r(TINY)
    save_model(start, tmp_path / "start.safetensors")
    config = dataclasses.replace(
        CONFIG, steps=2, init_from=str(tmp_path / "start.safetensors"), trainable=("flow_head",)
    )
    warmed = train(config, tmp_path / "run", quiet=True).model
    for name, parameter in warmed.named_parameters():
        unchanged = torch.equal(parameter, start.get_parameter(name))
        assert unchanged or name.startswith("flow_head"), name
    assert not torch.equal(warmed.flow_head.mlp[0].weight, start.flow_head.mlp[0].weight)


def test_labels_that_reach_nothing_that_learns_stop_a_run(tmp_path):
    config = dataclasses.replace(
        CONFIG, trainable=("flow_head",), data=dataclasses.replace(CONFIG.data, labelled_flow=False)
    )
    with pytest.raises(TrainingError, match=r"step 0: the labels of this batch teach nothing that learns.*'flow_"):
        train(config, tmp_path, quiet=True)


def test_a_run_ends_when_its_patience_does_and_keeps_the_best_weights(tmp_path):
    values = iter([3.0, 1.0, float("nan"), 2.0, 0.0])
    best: list[Flow3r] = []

    def measure(model: Flow3r) -> dict[str, float]:
        value = next(values)
        if value == 1.0:
            best.append(copy.deepcopy(model))
        return {"error": value}

    config = dataclasses.replace(CONFIG, steps=50, validate_every=1, best_by="error", patience=2)
    result = train(config, tmp_path, validation=measure, quiet=True)
    assert (result.steps, result.best_step) == (4, 2) and same_weights(load_model(result.best), best[0])
    measured = [record["validation/error"] for record in records(tmp_path)]
    assert measured == [3.0, 1.0, None, 2.0]
    again = train(config, tmp_path, validation=measure, quiet=True)  # it is over, and remembers why
    assert (again.steps, again.best_step, next(values)) == (4, 2, 0.0)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"accumulate": 0}, "accumulate is 0"),
        ({"steps": -1}, "steps -1"),
        ({"best_by": "error"}, "no validation to judge by"),
        ({"patience": 3}, "no validation to judge by"),
        ({"image_every": -1}, "image_every is -1; expected a number of steps, or 0"),
    ],
)
def test_settings_that_contradict_each_other_are_named_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(TrainingError, match=said):
        train(dataclasses.replace(CONFIG, **changes), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_validation_that_lacks_what_the_best_is_judged_by_is_named(tmp_path):
    config = dataclasses.replace(CONFIG, best_by="auc", validate_every=1)
    with pytest.raises(TrainingError, match="best_by is 'auc'; the validation measures error"):
        train(config, tmp_path, validation=lambda model: {"error": 1.0}, quiet=True)


def test_sizes_of_the_start_must_fit_the_preset(tmp_path):
    save_model(Flow3r(TINY), tmp_path / "start.safetensors")
    other = dataclasses.replace(TINY, branch=dataclasses.replace(TINY.branch, camera_width=20))
    config = dataclasses.replace(CONFIG, model=other, init_from=str(tmp_path / "start.safetensors"))
    with pytest.raises(CheckpointError, match="its sizes differ"):
        train(config, tmp_path / "run", quiet=True)


def test_presets_whose_data_is_not_here_say_so_before_anything_is_written(tmp_path):
    named = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, labelled=(SourceConfig("scannetpp"),)))
    with pytest.raises(TrainingError, match="trained on scannetpp; expected their sequences"):
        train(named, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_flow_on_labelled_data_can_be_left_out(tmp_path):
    for wanted in (True, False):
        data = dataclasses.replace(CONFIG.data, labelled_flow=wanted)
        train(dataclasses.replace(CONFIG, steps=1, data=data), tmp_path / str(wanted), quiet=True)
        logged = {name for record in records(tmp_path / str(wanted)) for name in record}
        assert ("labelled/flow" in logged) == wanted and "labelled/points" in logged


def test_labelled_scenes_of_another_source_take_the_place_of_worlds(tmp_path):
    drawn = []

    class Scenes(Source):
        def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
            drawn.append(wanted.step)
            return RenderedWorlds(CONFIG.data).draw(wanted, generator)

    train(dataclasses.replace(CONFIG, steps=2), tmp_path, labelled=Scenes(), quiet=True)
    assert drawn == [0, 1]
    assert all("labelled/points" in record for record in records(tmp_path))


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    first = initial_model(CONFIG)
    state = torch.get_rng_state()
    second = initial_model(CONFIG)
    assert same_weights(first, second) and torch.equal(state, torch.get_rng_state())
    assert not same_weights(first, initial_model(dataclasses.replace(CONFIG, seed=1)))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_selective_recomputation_and_bf16_train_too(tmp_path, share: float):
    config = dataclasses.replace(
        CONFIG,
        steps=2,
        precision="bfloat16",
        recompute="selective",
        data=dataclasses.replace(CONFIG.data, unlabelled_share=share),
    )
    assert train(config, tmp_path, clips=ShiftedClips(), quiet=True).steps == 2
