import itertools

import pytest
import torch
from torch import nn

from flow3r.config import OptimConfig
from flow3r.errors import TrainingError
from flow3r.train.optim import freeze_all_but, learning_rate, make_optimizer


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.register_tokens = nn.Parameter(torch.zeros(1, 2, 4))


def test_only_matrices_decay_and_every_parameter_is_in_one_group():
    model = Small()
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1))
    decaying, plain = optimizer.param_groups
    assert [p.shape for p in decaying["params"]] == [model.body.weight.shape] and decaying["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0 and len(plain["params"]) == 4


def test_configured_betas_are_used():
    optimizer = make_optimizer(Small(), OptimConfig(betas=(0.8, 0.7)))
    assert all(group["betas"] == (0.8, 0.7) for group in optimizer.param_groups)


def test_frozen_parameters_keep_their_bytes():
    model = Small()
    freeze_all_but(model, ("norm",))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, OptimConfig(learning_rate=0.1))
    model.norm(model.body(torch.randn(5, 3)) + model.register_tokens.sum()).square().sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("norm")


def test_unknown_part_is_named():
    with pytest.raises(TrainingError, match=r"'flow_head'.*body, norm, register_tokens"):
        freeze_all_but(Small(), ("flow_head",))


def test_learning_rate_warms_up_and_decays_to_its_final_fraction():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(config, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)
    rates = [learning_rate(config, step, step / 100) for step in range(10, 101)]
    assert all(b < a for a, b in itertools.pairwise(rates))
