"""How a forward pass trades time for memory. Nothing here changes a result beyond rounding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Memory:
    """`recompute`: run a part again in the backward pass instead of keeping what it made on the way.

    `tokens`: at most so many tokens go at once through work in which they do not see each other, where no gradient is
    wanted; None: all. A view is not divided, so it may exceed a budget that is smaller than itself.
    """

    recompute: bool = False
    tokens: int | None = None

    def recomputed(self, function: Callable, *inputs: object) -> object:
        """`function(*inputs)`, recomputed in the backward pass if so chosen."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def fits(self, tokens: int) -> bool:
        """Whether so many tokens go at once."""
        return self.tokens is None or torch.is_grad_enabled() or tokens <= self.tokens

    def rows(self, rows: int, tokens_of_row: int) -> int:
        """How many of `rows` independent rows of tokens go at once."""
        return rows if self.fits(rows * tokens_of_row) else max(1, self.tokens // tokens_of_row)

    def by_rows(self, function: Callable[..., Tensor], *inputs: Tensor, tokens_of_row: int) -> Tensor:
        """`function` of tensors whose rows (first axis) do not see each other, some rows at a time."""
        rows = len(inputs[0])
        step = self.rows(rows, tokens_of_row)
        if step == rows:
            return function(*inputs)
        first = function(*(x[:step] for x in inputs))
        whole = first.new_empty(rows, *first.shape[1:])
        whole[:step] = first
        for start in range(step, rows, step):
            whole[start : start + step] = function(*(x[start : start + step] for x in inputs))
        return whole


WHOLE = Memory()
