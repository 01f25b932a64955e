"""What a run measures of itself is what a slow, obvious measurement finds."""

import os
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_model import TINY, TINY_VGGT, tiny_images, tiny_model
from torch import nn
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from flow3r.train import measure
from flow3r.train.measure import Stopwatch, gradient_norms, peak_memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["pi3", "vggt"])
def test_norms_of_the_parts_combine_to_the_norm_of_all(config):
    model = tiny_model(config)
    prediction = model(tiny_images(), torch.tensor([[[0, 1]]]))
    (prediction.flow.displacement.square().mean() + prediction.world_points.square().mean()).backward()
    norms = gradient_norms(model)
    assert set(norms) >= {"encoder", "multiview", "flow_head"} and set(norms) <= dict(model.named_children()).keys()
    every = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(torch.stack([*norms.values()]).norm(), every.norm())
    own = torch.cat([p.grad.flatten() for p in model.flow_head.parameters()])
    torch.testing.assert_close(norms["flow_head"], own.norm())


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_tokens = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x) + self.register_tokens)


def test_parts_without_a_gradient_are_left_out_and_own_parameters_are_parts():
    model = Parts()
    assert gradient_norms(model) == {}
    model.encoder.requires_grad_(False)
    model(torch.ones(5, 3)).sum().backward()
    norms = gradient_norms(model)
    assert set(norms) == {"head", "register_tokens"}
    assert not any(norm.requires_grad for norm in norms.values())
    torch.testing.assert_close(norms["register_tokens"], model.register_tokens.grad.norm())


def test_a_wrapped_model_has_the_parts_of_the_model():
    model = Parts()
    model(torch.ones(5, 3)).sum().backward()
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": model})})
    assert gradient_norms(wrapped) == gradient_norms(model)


def shard_and_measure(rank: int, folder: str) -> None:
    """One of two ranks: the norms of a model whose gradients lie half here, half there."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = with_gradients()
    mesh = init_device_mesh("cpu", (2,))
    for module in (model.encoder, model.head):
        for name, parameter in list(module.named_parameters()):
            sharded = nn.Parameter(distribute_tensor(parameter.data, mesh, [Shard(0)]))
            sharded.grad = distribute_tensor(parameter.grad, mesh, [Shard(0)])
            setattr(module, name, sharded)
    torch.save(gradient_norms(model), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def with_gradients() -> Parts:
    model = Parts()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def test_norms_of_sharded_gradients_are_those_of_the_whole_on_every_rank(tmp_path):
    torch.multiprocessing.spawn(shard_and_measure, (str(tmp_path),), nprocs=2)
    whole = gradient_norms(with_gradients())
    for rank in range(2):
        norms = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert norms.keys() == whole.keys()
        for part, norm in norms.items():
            assert type(norm) is torch.Tensor
            torch.testing.assert_close(norm, whole[part])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what is resident from Linux's /proc")
def test_the_peak_of_memory_is_between_what_is_resident_now_and_all_there_is():
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0.99 * now <= peak_memory(CPU) < everything
    held = torch.ones(64 * 2**20 // 4)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_memory(CPU) >= 0.99 * resident and len(held)


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("freebsd14", 1024)])
def test_where_linux_does_not_tell_the_peak_has_the_units_of_the_system(monkeypatch, platform, unit):
    usage = types.SimpleNamespace(ru_maxrss=5000)
    fake = types.SimpleNamespace(getrusage=lambda who: usage, RUSAGE_SELF=0)
    monkeypatch.setattr(measure, "STATUS", Path("/not/there"))
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory(CPU) == 5000 * unit


def test_a_linux_that_tells_no_peak_is_asked_as_other_systems_are(monkeypatch, tmp_path):
    usage = types.SimpleNamespace(getrusage=lambda who: types.SimpleNamespace(ru_maxrss=7000), RUSAGE_SELF=0)
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(measure, "STATUS", tmp_path / "status")
    measure.STATUS.write_text("Name:\tpython\nVmRSS:\t    5000 kB\n")
    assert peak_memory(CPU) == 7000 * 1024
    measure.STATUS.write_text("Name:\tpython\nVmHWM:\t    6000 kB\n")
    assert peak_memory(CPU) == 6000 * 1024


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_laps_measure_pace_and_the_share_that_was_waited():
    clock = Clock()
    watch = Stopwatch(clock)
    for _ in range(4):
        with watch.waiting():
            clock.now += 0.5
        clock.now += 1.5
    assert watch.lap(steps=4, images=96) == {"steps/s": 0.5, "images/s": 12.0, "data_wait": 0.25}
    clock.now += 10  # a lap knows nothing of the laps before it
    assert watch.lap(steps=5, images=5) == {"steps/s": 0.5, "images/s": 0.5, "data_wait": 0.0}
    with watch.waiting():
        clock.now += 1
    assert watch.lap(steps=1, images=2)["data_wait"] == 1.0


def test_waiting_that_fails_is_counted():
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(StopIteration), watch.waiting():
        clock.now += 1
        raise StopIteration
    clock.now += 1
    assert watch.lap(1, 1)["data_wait"] == 0.5


def test_a_lap_in_no_time_is_finite():
    lap = Stopwatch(Clock()).lap(1, 1)
    assert all(torch.isfinite(torch.tensor(value)) for value in lap.values()) and lap["data_wait"] == 0
