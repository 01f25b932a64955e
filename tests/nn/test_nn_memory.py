"""What is recomputed where parameters are sharded over processes."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from flow3r.nn.block import Block, run_block
from flow3r.nn.memory import Memory


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def slopes(recompute: str, sharded: bool, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(4)
    blocks = torch.nn.Sequential(*(Block(16, 2, 2, 1e-6, 1e-5, 1.0) for _ in range(3)))
    x = torch.randn(2, 5, 16)
    if sharded:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for block in blocks:
            fully_shard(block, mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
        fully_shard(blocks, mesh=init_device_mesh("cpu", (1,)), mp_policy=policy)
        x = x.to(dtype)
    for block in blocks:
        x = run_block(block, x, None, Memory(recompute=recompute))
    x.float().square().mean().backward()
    found = [p.grad for p in blocks.parameters()]
    assert all(isinstance(g, DTensor) == sharded for g in found)
    return [g.full_tensor() if sharded else g for g in found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", ["selective", "everything"])
def test_sharded_blocks_have_the_gradients_of_whole_ones(alone, recompute, dtype):
    kept, recomputed = (slopes(name, True, dtype) for name in ("nothing", recompute))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
    if dtype == torch.float32:
        for a, b in zip(slopes("nothing", False, dtype), recomputed, strict=True):
            torch.testing.assert_close(a, b)
