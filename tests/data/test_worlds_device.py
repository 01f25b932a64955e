"""Worlds on an accelerator: all is made there, and the host seldom waits for it, however many scenes there are."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flow3r.data import worlds
from flow3r.data.worlds import Worlds, render_worlds

# What reads a value, or makes a shape of values, and what brings numbers of the host.
WAITS, UPLOADS = ("local_scalar_dense", "nonzero", "equal", "masked_select", "unique"), ("lift_fresh",)


class Traffic(TorchDispatchMode):
    """Counts what makes host and device wait for each other."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").strip("_")
        if name in ("index", "index_put") and any(i is not None and i.dtype == torch.bool for i in args[1]):
            name = "nonzero"  # a mask
        if name.startswith(WAITS + UPLOADS):
            self.counts["uploads" if name.startswith(UPLOADS) else "waits"] += 1
        return func(*args, **(kwargs or {}))


def rendered(scenes: int) -> Worlds:
    pairs = torch.tensor([[0, 1], [2, 0]]).expand(scenes, -1, -1)
    return render_worlds(range(40, 40 + scenes), 3, (28, 42), pairs=pairs, device="cpu")


@pytest.mark.parametrize(
    ("count", "step"),
    [("waits", lambda x: x[x > 0]), ("waits", lambda x: x.sum().item()), ("uploads", lambda x: x[:, [0, 1]])],
    ids=["mask", "item", "list"],
)
def test_traffic_is_seen(count, step):
    with Traffic() as traffic:
        step(torch.ones(2, 2))
    assert traffic.counts == {count: 1}


def test_nothing_is_made_on_the_default_device():
    """Tensors without a device of their own would have no values here, and could not meet the others."""
    plain = rendered(4)
    seeds, pairs = range(40, 44), torch.tensor([[0, 1], [2, 0]]).expand(4, -1, -1)
    with torch.device("meta"):
        elsewhere = render_worlds(seeds, 3, (28, 42), pairs=pairs, device="cpu")
    assert torch.equal(elsewhere.views.images, plain.views.images)
    assert torch.equal(elsewhere.views.flow.displacement, plain.views.flow.displacement)
    assert torch.equal(elsewhere.moving, plain.moving)


def test_the_host_waits_no_more_for_a_larger_batch(monkeypatch: pytest.MonkeyPatch):
    """A wait for each list of rays that is made: of every kind of solid, of edges, and of every round over hills."""
    monkeypatch.setattr(worlds, "_RAYS_AT_ONCE", worlds._RAYS_AT_ONCE_ON_GPU)
    for scenes in (4, 16):
        rendered(scenes)
        with Traffic() as traffic:
            rendered(scenes)
        assert 0 < traffic.counts["waits"] <= 100 and traffic.counts["uploads"] <= 40
