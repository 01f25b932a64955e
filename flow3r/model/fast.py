"""Ways to run a trained model faster, each within rounding of the plain one; they may be combined, in this order.

Each works on the model in place, as `nn.Module.to` does, and is for inference; `compile_blocks` serves training too.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from flow3r.nn.block import Block
from flow3r.nn.memory import Memory, Recompute
from flow3r.nn.precision import lower_precision
from flow3r.nn.rope import RotaryTable

MOST_CAPTURED_TOKENS = 16_384  # ours: beyond it the arithmetic outweighs the launches
MOST_CAPTURED_SHAPES = 8
MOST_COMPILED_FORMS = 64  # ours: about five of each kind of block with `any_size`; torch's 8 then runs the rest plainly


def lay_out_for_inference(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Weights in `dtype` (but of the heads' last steps, which stay fp32) and convolutions channels last.

    With weights in bf16 no autocast is needed, and none of their casts happens.
    """
    if dtype is not None and dtype != torch.float32:
        lower_precision(model, dtype)
    model.to(memory_format=torch.channels_last)


def compile_blocks(
    model: nn.Module,
    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default",
    *,
    recompute: Recompute = "nothing",
    any_size: bool = False,
) -> int:
    """Compile every transformer block; returns their number. Blocks of one kind share what is compiled.

    The first call for a new number of views or size of images compiles for seconds to minutes. With `any_size` what is
    compiled serves all sizes, as training needs it: one view, one scene and several are then all that is told apart.
    `recompute` holds for training, in place of the model's own. Gradients of gradients are not to be had.

    Lets torch keep as many compiled forms of one function as there are kinds of blocks, for the whole process.
    """
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, MOST_COMPILED_FORMS)
    memory = Memory(recompute=recompute)

    def run(block: Block, x: Tensor, rope: RotaryTable | None) -> Tensor:
        return memory.recomputed(block.plain, x, rope)

    compiled = torch.compile(run, mode=mode, dynamic=any_size or None)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.compiled = compiled
    return len(blocks)


def capture_encoding(model: nn.Module) -> "CapturedEncoding":
    """Replay `model.encode`, nearly all of a model's launches, from CUDA graphs where images are few and small.

    Raises ValueError for a model that is not on a CUDA device.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"the model is on {device}; CUDA graphs need a CUDA device: leave them out")
    captured = CapturedEncoding(model.encode, model.config.encoder.patch)
    model.encode = captured
    return captured


class CapturedEncoding:
    """A function of images that is captured once for each of the last shapes, then replayed without launching."""

    def __init__(self, encode: Callable[[Tensor], Tensor | tuple[Tensor, ...]], patch: int):
        self.encode, self.patch = encode, patch
        self.graphs: OrderedDict[tuple, tuple[torch.cuda.CUDAGraph, Tensor, Tensor | tuple[Tensor, ...]]] = (
            OrderedDict()
        )

    def __call__(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        scenes, views, _, height, width = images.shape
        tokens = scenes * views * (height // self.patch) * (width // self.patch)
        if tokens > MOST_CAPTURED_TOKENS or torch.is_grad_enabled():
            return self.encode(images)
        key = (images.shape, images.dtype, torch.is_autocast_enabled("cuda"))
        if key not in self.graphs:
            self.graphs[key] = self._capture(images)
            if len(self.graphs) > MOST_CAPTURED_SHAPES:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(key)
        graph, fed, out = self.graphs[key]
        fed.copy_(images)
        graph.replay()
        return tree_map(torch.clone, out)  # the next replay writes over it

    def _capture(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor | tuple[Tensor, ...]]:
        fed = images.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # warm up: tables and workspaces are made outside the graph
            for _ in range(2):
                self.encode(fed)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.encode(fed)
        return graph, fed, out
