"""A model together with what it is held to: one module from a batch to its loss, whole or shared among ranks."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from flow3r.config import MatcherConfig, TrainConfig, VggtConfig
from flow3r.losses.objective import OBJECTIVES, Objective
from flow3r.model.checkpoints import MODEL_OF, Model, find_weights, initialise_from, load_encoder
from flow3r.nn.memory import Memory
from flow3r.nn.precision import fast_dtype
from flow3r.types import Prediction, Views


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a batch supervises: outputs of the model by name, and whether flow."""

    outputs: frozenset[str]
    flow: bool

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(self.outputs | other.outputs, self.flow or other.flow)


class Learner(nn.Module):
    """From a batch to its loss, so that whoever distributes the gradients sees all that leads to it.

    `reach_all`: every output asked for gets a gradient, if only of zeros, though this batch has no label for it: ranks
    that hold a model in parts must reach the same parameters.
    """

    def __init__(self, model: Model, config: TrainConfig, reach_all: bool = False):
        super().__init__()
        self.model, self.config, self.reach_all = model, config, reach_all

    def forward(self, views: Views, needs: Needs, generator: torch.Generator) -> tuple[Tensor, Objective]:
        """The loss to minimise, and the objective it comes from, without gradients.

        `needs` may be more than this batch's own. `generator` draws the points that alignments are solved on.
        """
        prediction = predict(self.model, views, needs, self.config)
        objective = OBJECTIVES[type(self.config.model)](prediction, views, self.config.loss, generator)
        total = objective.total
        if self.reach_all:
            outputs: list[Tensor] = []
            prediction.apply(lambda tensor: outputs.append(tensor) or tensor)
            total = _ReachAll.apply(total, *(output for output in outputs if output.requires_grad))
        return total, dataclasses.replace(objective, total=total.detach())


def needs_of(views: Views, config: TrainConfig) -> Needs:
    """What the labels of a batch supervise, of what learns; flow comes with its pairs."""
    there = {"depth": views.labelled, "poses": views.world_from_camera is not None, "flow": views.flow is not None}
    return supervised(config, **there)


def supervised(config: TrainConfig, *, depth: bool, poses: bool, flow: bool) -> Needs:
    """What labels of these kinds supervise, of what learns; with depth, a batch counts as labelled."""
    outputs: tuple[str, ...] = ()
    if isinstance(config.model, MatcherConfig):
        return Needs(frozenset(), flow)
    if any(not prefix.startswith("flow_head") for prefix in config.trainable):
        if depth:
            outputs = ("points", "cameras")
            if isinstance(config.model, VggtConfig) or config.loss.confidence > 0:
                outputs += ("confidence",)
        elif poses:
            outputs = ("cameras",)
    flow = flow and bool(config.model.flow) and (not depth or config.data.labelled_flow)
    return Needs(frozenset(outputs), flow)


def predict(model: Model, views: Views, needs: Needs, config: TrainConfig) -> Prediction:
    """The outputs needed, in the run's precision; flow of the first two views where a batch has no pairs of its own."""
    pairs = None
    if needs.flow:
        first = torch.tensor([[[0, 1]]], device=views.images.device).expand(len(views.images), 1, 2)
        pairs = first if views.flow is None else views.flow.pairs
    device = views.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(config, device)):
        return model(views.images, pairs, intrinsics=views.intrinsics, outputs=tuple(sorted(needs.outputs)))


def initial_model(config: TrainConfig) -> Model:
    """The model that a run starts from: initialised from the run's seed, then filled with the weights that it names.

    Raises CheckpointError where these do not fit.
    """
    # Found, and their licences accepted, before a large model is built.
    encoder, start = (None if name is None else find_weights(name) for name in (config.encoder_from, config.init_from))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MODEL_OF[type(config.model)](config.model)
    if encoder is not None:
        load_encoder(model, encoder)
    if start is not None:
        initialise_from(model, start)
    model.memory = Memory(recompute=config.recompute)
    return model


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to run under bf16 autocast: as the configuration says, or `auto`: where the device computes in it."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    return fast_dtype(device) == torch.bfloat16


class _ReachAll(torch.autograd.Function):
    """The first of its inputs; the gradient of all others is zero, but there is one."""

    @staticmethod
    def forward(ctx: FunctionCtx, total: Tensor, *others: Tensor) -> Tensor:
        ctx.likes = [(other.shape, other.dtype, other.device) for other in others]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        zeros = (torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.likes)
        return gradient, *zeros
