"""How a forward pass trades time for memory. Nothing here changes a result beyond rounding."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

# What the backward pass runs again of transformer blocks and pair decoders, instead of keeping it from the forward
# pass: "selective" keeps what products of matrices and attention made, and runs the rest again, convolutions too.
Recompute = Literal["nothing", "selective", "everything"]
PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm"})
ATTENTION = "_scaled_dot_product_"  # how the name of each of its kernels begins, on any device


@dataclass(frozen=True)
class Memory:
    """`recompute`: what the backward pass runs again instead of keeping.

    `tokens`: at most so many tokens go at once through work in which they do not see each other, where no gradient is
    wanted; None: all. A view is not divided, so it may exceed a budget that is smaller than itself.
    """

    recompute: Recompute = "nothing"
    tokens: int | None = None

    def recomputed(self, function: Callable, *inputs: object) -> object:
        """`function(*inputs)`, recomputed in the backward pass as chosen."""
        if self.recompute == "nothing" or not torch.is_grad_enabled():
            return function(*inputs)
        if self.recompute == "everything":
            return checkpoint(function, *inputs, use_reentrant=False)
        with nullcontext() if torch.compiler.is_compiling() else _no_autocast_cache():
            return checkpoint(function, *inputs, use_reentrant=False, context_fn=_keeping_products)

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


def _keeping_products() -> tuple[AbstractContextManager, AbstractContextManager]:
    return create_selective_checkpoint_contexts(_policy)


def _policy(context: object, operation: Any, *arguments: object, **options: object) -> CheckpointPolicy:
    name = operation.__name__.split(".")[0]  # without its overload
    kept = name in PRODUCTS or name.startswith(ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Weights are cast on every use, so that recomputing runs the operations of the forward pass, one for one."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


WHOLE = Memory()
