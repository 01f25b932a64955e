"""Training of VGGT's family: the same loop, the objective of its own."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_loop import CONFIG, ShiftedClips, records
from tiny_model import TINY_REFERENCE, TINY_VGGT

from flow3r.config import LossConfig, OptimConfig, TrainConfig, VggtLossConfig, WorldsConfig
from flow3r.data.mixture import Source, Wanted
from flow3r.data.worlds import render_worlds
from flow3r.draw import training_picture
from flow3r.errors import TrainingError
from flow3r.model.checkpoints import save_model
from flow3r.model.flow_heads import FLOW_HEADS
from flow3r.train.loop import train
from flow3r.types import Views

GEOMETRY = {"points", "centring", "depth", "rotation", "centres", "field_of_view"}


class OneWorld(Source):
    """The same labelled world at every step: two views, far apart."""

    def __init__(self):
        pairs = torch.tensor([[[0, 1], [1, 0]]])
        self.views = render_worlds([6], 2, (28, 42), config=WorldsConfig(held_out=True), pairs=pairs).views

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        return self.views


def of_kind(kind: str, **changes: Any) -> TrainConfig:
    model = dataclasses.replace(TINY_VGGT, flow=dataclasses.replace(TINY_VGGT.flow, kind=kind))
    return dataclasses.replace(CONFIG, model=model, **changes)


def names(folder: Path, kind: str) -> set[str]:
    """What was logged of steps of a kind."""
    return {name.removeprefix(f"{kind}/") for r in records(folder) for name in r if name.startswith(kind)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", FLOW_HEADS)
def test_every_flow_head_learns_from_labelled_and_unlabelled_steps(tmp_path, kind: str, precision: str):
    alignment = "shared" if precision == "bfloat16" else "separate"
    loss = LossConfig(vggt=VggtLossConfig(alignment=alignment))
    result = train(of_kind(kind, steps=4, precision=precision, loss=loss), tmp_path, clips=ShiftedClips(), quiet=True)
    assert names(tmp_path, "labelled") == {*GEOMETRY, "flow", "reprojection"}
    assert names(tmp_path, "unlabelled") >= {"flow"} and not names(tmp_path, "unlabelled") & GEOMETRY
    assert all(value is not None for record in records(tmp_path) for value in record.values())
    assert all(parameter.isfinite().all() for parameter in result.model.parameters())


@pytest.mark.parametrize("alignment", ["separate", "shared"])
def test_one_world_drives_every_term_down(tmp_path, alignment: str):
    config = of_kind(
        "factored",
        steps=60,
        log_every=1,
        image_every=1000,
        checkpoint_every=1000,
        optim=OptimConfig(learning_rate=5e-3, warmup_steps=10),
        loss=LossConfig(vggt=VggtLossConfig(alignment=alignment, point_confidence=0.1)),
        data=dataclasses.replace(CONFIG.data, unlabelled_share=1.0),
    )
    world = OneWorld()
    model = train(config, tmp_path, clips=world, quiet=True).model
    first, *_, last = records(tmp_path)
    for term in GEOMETRY | {"point_confidence", "flow"}:
        assert last[f"labelled/{term}"] < 0.85 * first[f"labelled/{term}"], term
    with torch.no_grad():
        prediction = model(world.views.images, world.views.flow.pairs)
    assert training_picture(world.views, prediction).isfinite().all()


def test_a_first_view_and_no_flow_train_on_worlds_alone(tmp_path):
    train(dataclasses.replace(CONFIG, model=TINY_REFERENCE, steps=2), tmp_path, quiet=True)
    assert names(tmp_path, "labelled") == {*GEOMETRY, "reprojection"}


def test_a_prediction_that_is_not_finite_stops_the_run_with_its_batch(tmp_path):
    result = train(dataclasses.replace(CONFIG, model=TINY_REFERENCE, steps=1), tmp_path / "start", quiet=True)
    with torch.no_grad():
        result.model.encoder.patch_embed.weight.fill_(3e38)
    save_model(result.model, tmp_path / "broken.safetensors")
    config = dataclasses.replace(CONFIG, model=TINY_REFERENCE, init_from=str(tmp_path / "broken.safetensors"))
    with pytest.raises(TrainingError, match=r"step 0: the (prediction|loss) is nan; the batch is saved as"):
        train(config, tmp_path / "run", quiet=True)
    assert "images" in torch.load(tmp_path / "run" / "non_finite_step_0.pt", weights_only=True)
