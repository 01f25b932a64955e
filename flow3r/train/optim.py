"""What is trained, how fast, and with how much decay."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from flow3r.config import OptimConfig
from flow3r.errors import TrainingError


def freeze_all_but(model: nn.Module, trainable: Sequence[str]) -> None:
    """Let only parameters whose name starts with one of `trainable` learn; "" means all.

    Raises TrainingError naming a prefix that matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in trainable:
        if not any(name.startswith(prefix) for name in names):
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise TrainingError(f"no parameter starts with {prefix!r}; the model's parts are {parts}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trainable)))


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW in two groups: matrices and kernels decay; biases, norms, scales, tokens and position tables do not."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decaying = [p for name, p in learning if p.ndim >= 2 and "token" not in name and "position" not in name]
    chosen = {id(p) for p in decaying}
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": [p for _, p in learning if id(p) not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate(config: OptimConfig, step: int, progress: float) -> float:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `final_fraction` at progress 1.

    `progress` in [0, 1] is the share of the run that is done: of its steps, or of its time where time bounds it.
    """
    warmup = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return config.learning_rate * warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


class AveragedWeights:
    """The exponential moving average of the parameters that learn, beside a model that goes on learning."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._learning.items()}

    def update(self, step: int) -> None:
        """Take in the parameters after `step` finished steps; early averages forget faster, so as not to lag behind."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average(list(self.tensors.values()), [p.detach() for p in self._learning.values()], None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model has the averages for its parameters."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._learning.items():
            current = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
