"""The factored flow head on latents fed as leaves: what may depend on what, and twins of its shortcuts."""

import dataclasses

import torch
from tiny_model import TINY, gradients, tiny_model
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flow3r.types import Latents

VIEWS, GRID, WIDTH = 4, (2, 3), TINY.branch.width


def leaves(scenes: int = 1) -> Latents:
    def level() -> torch.Tensor:
        return torch.randn(scenes, VIEWS, *GRID, WIDTH, requires_grad=True)

    return Latents(tuple(level() for _ in range(4)), tuple(level() for _ in range(4)))


def by_view(maps: tuple[torch.Tensor, ...]) -> list[float]:
    """The largest gradient of each view over all levels."""
    return torch.stack([m.grad.abs().amax(dim=(0, 2, 3, 4)) for m in maps]).amax(0).tolist()


def test_geometry_of_the_target_view_has_exactly_no_part_in_its_flow():
    head, latents, (i, j) = tiny_model().flow_head, leaves(), (2, 1)
    flow = head(latents, torch.tensor([[[i, j]]]))
    (flow.displacement * torch.randn_like(flow.displacement)).sum().backward()
    geometry, camera = by_view(latents.geometry), by_view(latents.camera)
    assert geometry[j] == 0.0 and camera[j] > 1e-6  # the claim of the paper
    assert geometry[i] > 1e-6 and camera[i] > 1e-6
    for third in {0, 1, 2, 3} - {i, j}:
        assert geometry[third] == 0.0 and camera[third] == 0.0


def test_every_level_of_the_target_s_camera_latents_is_used():
    head, latents = tiny_model().flow_head, leaves()
    head(latents, torch.tensor([[[0, 3]]])).displacement.square().sum().backward()
    assert all(level.grad[0, 3].abs().max() > 0 for level in latents.camera)


def test_the_target_view_enters_by_the_mean_of_its_camera_latents():
    head, latents, pairs = tiny_model().flow_head, leaves(), torch.tensor([[[0, 1]]])
    shuffled = [c.clone() for c in latents.camera]
    order = torch.randperm(GRID[0] * GRID[1])
    for level in shuffled:
        level[:, 1] = level[:, 1].flatten(1, 2)[:, order].unflatten(1, GRID)
    with torch.no_grad():
        before = head(latents, pairs).displacement
        after = head(Latents(latents.geometry, tuple(shuffled)), pairs).displacement
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_parts_of_the_first_layer_are_that_layer_on_the_concatenation():
    head, latents = tiny_model().flow_head, leaves()
    geometry, camera = latents.geometry[0], latents.camera[0]
    i, j = torch.tensor([0, 2, 2]), torch.tensor([3, 1, 0])

    def by_parts() -> torch.Tensor:
        return head.fuse(head.source_part(geometry, camera)[i] + head.target_part(camera)[j][:, None, None])

    def by_concatenation() -> torch.Tensor:
        c_j = camera[0, j].mean(dim=(1, 2), keepdim=True).expand_as(camera[0, i])
        x = torch.cat([camera[0, i], c_j, geometry[0, i]], dim=-1)
        x = head.mlp[2](F.relu(head.mlp[1](F.relu(head.mlp[0](x)))))
        return head.norm(x).permute(0, 3, 1, 2)

    results = []
    for form in (by_parts, by_concatenation):
        head.zero_grad()
        geometry.grad = camera.grad = None
        out = form()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append({"out": out, "geometry": geometry.grad, "camera": camera.grad} | gradients(head))
    assert results[0].keys() == results[1].keys() and "mlp.0.weight" in results[0]
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], atol=1e-4, rtol=1e-4)


def test_pairs_in_chunks_are_pairs_at_once():
    latents, pairs = leaves(2), torch.tensor([[[0, 1], [1, 0], [2, 3]], [[3, 0], [1, 2], [0, 3]]])
    results = []
    for chunk in (1, 4, 100):
        config = dataclasses.replace(TINY, flow=dataclasses.replace(TINY.flow, pairs_per_chunk=chunk))
        head = tiny_model(config).flow_head
        for level in (*latents.geometry, *latents.camera):
            level.grad = None
        flow = head(latents, pairs).displacement
        flow.square().mean().backward()
        results.append([flow, *(level.grad for level in latents.camera), *gradients(head).values()])
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-4)


def test_scenes_of_a_batch_do_not_meet():
    head, latents, pairs = tiny_model().flow_head, leaves(2), torch.tensor([[[0, 1]], [[3, 2]]])
    together = head(latents, pairs)
    assert torch.equal(together.pairs, pairs) and together.covisible is None
    for scene in range(2):
        alone = Latents(*(tuple(m[scene : scene + 1] for m in maps) for maps in (latents.geometry, latents.camera)))
        flow = head(alone, pairs[scene : scene + 1]).displacement
        torch.testing.assert_close(flow[0], together.displacement[scene], atol=1e-4, rtol=1e-4)


def test_the_head_never_waits_for_the_device():
    class Syncs(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    head, latents, pairs = tiny_model().flow_head, leaves(), torch.tensor([[[0, 1], [1, 2]]])
    with Syncs() as syncs:
        head(latents, pairs)
    assert syncs.count == 0
