"""One world, seen again and again, is learnt: every term of every variant of both families comes near its floor.

The floor of most terms is 0. A term with a confidence has one that its errors move: what is above it is judged. Depth
starts hundreds of scales away, next to which any confidence is small: there the error itself is judged, in scales of
the scene. The world is a smooth room without motion, so that flow by projection can be exact.
"""

import dataclasses

import pytest
import torch
from tiny_model import TINY, TINY_VGGT
from torch.nn import functional as F

from flow3r.config import LossConfig, ModelConfig, OptimConfig, TrainConfig, VggtConfig, VggtLossConfig, WorldsConfig
from flow3r.data.worlds import render_worlds
from flow3r.losses import objective as objectives
from flow3r.model.checkpoints import Model
from flow3r.train.learner import initial_model, needs_of, predict
from flow3r.train.optim import learning_rate, make_optimizer
from flow3r.types import Views

FAMILIES: dict[str, ModelConfig | VggtConfig] = {"flow3r": TINY, "flow3r-vggt": TINY_VGGT}
KINDS = {"3d-sup": None, "flow-projective": "projective", "flow-tracking": "tracking", "flow-factored": "factored"}
STEPS = {"flow3r": 200, "flow3r-vggt": 200}
# A short warm-up throws VGGT's depth to 0, where its exponential gives no gradient.
OPTIM = {
    "flow3r": OptimConfig(3e-3, warmup_steps=20, weight_decay=0.0),
    "flow3r-vggt": OptimConfig(4e-3, warmup_steps=60, weight_decay=0.0),
}
# The robust flow pulls the harder the nearer it comes, points do not: it must not drown them. With VGGT's projection
# it alone ties the frame of the points to that of the cameras.
FLOW_WEIGHT = {
    ("flow3r", "projective"): 0.03,
    ("flow3r", "tracking"): 0.1,
    ("flow3r", "factored"): 0.3,
    ("flow3r-vggt", "projective"): 1.0,
    ("flow3r-vggt", "tracking"): 0.3,
    ("flow3r-vggt", "factored"): 0.3,
}
# Of what a term had above its floor at the start, the share that may be left.
LEFT = {
    "rotation": 0.05,
    "translation": 0.05,
    "centres": 0.05,
    "centring": 0.05,
    "field_of_view": 0.05,
    "points": 0.25,
    "normals": 0.3,
    "confidence": 0.3,
    "point_confidence": 0.25,
    "depth": 0.05,
    "flow": 0.25,
}
DEPTH_ERROR = 0.15  # mean, in scales of the scene, whose true depths are 3.6 of them


def config_of(family: str, kind: str | None) -> TrainConfig:
    """A tiny model with wider dense heads; the blocks of VGGT's, which has no branches, take part from the start."""
    sizes = FAMILIES[family]
    features = 16 if family == "flow3r" else 32
    wide = {"features": features, "level_channels": (features,) * 4, "output_channels": features}
    flow = None if kind is None else dataclasses.replace(sizes.flow, kind=kind, **wide)
    sizes = dataclasses.replace(sizes, flow=flow)
    if isinstance(sizes, VggtConfig):
        sizes = dataclasses.replace(
            sizes,
            multiview=dataclasses.replace(sizes.multiview, layer_scale=1.0),
            camera=dataclasses.replace(sizes.camera, layer_scale=1.0),
            dense=dataclasses.replace(sizes.dense, **wide),
        )
    return TrainConfig(
        name="one world",
        model=sizes,
        loss=LossConfig(flow=FLOW_WEIGHT.get((family, kind), 1.0), vggt=VggtLossConfig(point_confidence=0.1)),
        optim=OPTIM[family],
        steps=STEPS[family],
        precision="float32",
    )


def one_world() -> Views:
    """Two views of a room, 11 pixels of mean flow between them."""
    config = WorldsConfig(held_out=True, moving_share=0.0, outdoor_share=0.0)
    return render_worlds([8], 2, (28, 28), config=config, pairs=torch.tensor([[[0, 1]]])).views


def learn(model: Model, views: Views, config: TrainConfig) -> None:
    """The steps of a run on one batch."""
    optimizer, generator = make_optimizer(model, config.optim), torch.Generator().manual_seed(0)
    needs = needs_of(views, config)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, step, step / config.steps)
        prediction = predict(model, views, needs, config)
        objective = objectives.OBJECTIVES[type(config.model)](prediction, views, config.loss, generator)
        optimizer.zero_grad()
        objective.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
        optimizer.step()


def above_the_floor(
    model: Model, views: Views, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """Every term of the objective, less what is least for the errors at hand where a confidence belongs to it."""
    excess: dict[str, float] = {}

    def confidence(logit, errors, mask, sharpness):
        target = torch.exp(-sharpness * errors)
        entropy = F.binary_cross_entropy(target, target, reduction="none")
        above = F.binary_cross_entropy_with_logits(logit, target, reduction="none") - entropy
        excess["confidence"] = float(above[mask].mean())
        return logit.new_zeros(())

    def weighted(errors, logit, mask, alpha):
        name = "depth" if "point_confidence" in excess else "point_confidence"  # in the order of the objective
        # Σ e - α log Σ is least at Σ = α / e, but Σ is at least 1.
        least = torch.where(errors < alpha, alpha - alpha * (alpha / errors.clamp_min(1e-9)).log(), errors)
        excess[name] = float(((1 + logit.exp()) * errors - alpha * F.softplus(logit) - least)[mask].mean())
        if name == "depth":
            excess["depth_error"] = float(errors[mask].mean())
        return logit.new_zeros(())

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(objectives, "confidence_loss", confidence)
        patch.setattr(objectives, "weighted_by_confidence", weighted)
        prediction = predict(model, views, needs_of(views, config), config)
        objective = objectives.OBJECTIVES[type(config.model)](prediction, views, config.loss)
    return {name: float(term) for name, term in objective.terms.items()} | excess


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", KINDS)
def test_one_world_drives_every_term_to_near_its_floor(monkeypatch, family: str, variant: str):
    config, views = config_of(family, KINDS[variant]), one_world()
    model = initial_model(config)
    first = above_the_floor(model, views, config, monkeypatch)
    learn(model, views, config)
    last = above_the_floor(model, views, config, monkeypatch)
    assert ("flow" in first) == (variant != "3d-sup") and first.keys() == last.keys()
    assert last.pop("depth_error", 0.0) < DEPTH_ERROR
    left = {name: last[name] / first[name] for name in last}
    assert {name: share for name, share in left.items() if not share <= LEFT[name]} == {}
