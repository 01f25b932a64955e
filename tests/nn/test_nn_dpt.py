import math

import pytest
import torch
from torch.nn import functional as F

from flow3r.nn.dpt import Dpt, DptFeatures, Fusion, ResidualUnit, axis_positions

CPU = torch.device("cpu")


def fuse_then_mix(fusion: Fusion, x: torch.Tensor, skip: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
    """The public order: upsample, then mix channels."""
    x = x if skip is None else x + fusion.skip_unit(skip)
    return fusion.out_conv(F.interpolate(fusion.unit(x), size, mode="bilinear", align_corners=True))


@pytest.mark.parametrize("with_skip", [True, False])
def test_mixing_before_upsampling_changes_neither_values_nor_gradients(with_skip):
    fusion = Fusion(8, with_skip)
    x, skip = torch.randn(2, 2, 8, 3, 4)
    results = []
    for form in (fusion, lambda *arguments: fuse_then_mix(fusion, *arguments)):
        fusion.zero_grad()
        leaf = x.clone().requires_grad_()
        out = form(leaf, skip if with_skip else None, (7, 9))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        results.append([out, leaf.grad, *(p.grad.clone() for p in fusion.parameters())])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_residual_adds_the_rectified_input():
    unit = ResidualUnit(4)
    for parameter in unit.conv2.parameters():
        parameter.data.zero_()
    x = torch.randn(1, 4, 3, 3)
    before = x.clone()
    assert torch.equal(unit(x), x.relu())
    assert torch.equal(x, before)  # without touching what it was given


def test_positions_of_an_axis_in_a_few_lines():
    quarter, length, span = 3, 5, 0.8
    table = axis_positions(quarter, length, span, CPU, torch.float32)
    for pixel in range(length):
        position = span * (2 * pixel + 1 - length) / length  # the pixel's centre, where the axis is [-span, span]
        expected = [0.1 * f(position * 100 ** (-k / quarter)) for f in (math.sin, math.cos) for k in range(quarter)]
        torch.testing.assert_close(table[:, pixel], torch.tensor(expected))


def test_a_table_first_made_in_inference_serves_training():
    axis_positions.cache_clear()
    dpt = Dpt(8, 8, (8, 8, 8, 8), 4, 2)
    levels = tuple(torch.randn(4, 1, 8, 2, 3))
    with torch.inference_mode():
        dpt(levels, (28, 42))
    dpt(levels, (28, 42)).sum().backward()
    assert all(p.grad.isfinite().all() for p in dpt.parameters())


@pytest.mark.parametrize("grid", [(1, 1), (1, 3), (5, 2)])
def test_any_grid_gives_a_map_of_the_image_s_size(grid):
    height, width = 14 * grid[0], 14 * grid[1]
    out = Dpt(8, 8, (8, 12, 16, 16), 4, 2)(tuple(torch.randn(4, 2, 8, *grid)), (height, width))
    assert out.shape == (2, 2, height, width) and out.isfinite().all()


def test_every_level_reaches_the_output():
    levels = [torch.randn(1, 8, 3, 3, requires_grad=True) for _ in range(4)]
    Dpt(8, 8, (8, 8, 8, 8), 4, 2)(tuple(levels), (42, 42)).square().sum().backward()
    assert all(level.grad.abs().max() > 0 for level in levels)


def dpt_features(positions: bool) -> DptFeatures:
    return DptFeatures(8, 8, (8, 12, 16, 16), neck=12, positions=positions)


@pytest.mark.parametrize("size", [(21, 28), (5, 7), (1, 1)])
def test_features_have_any_size_and_the_neck_s_channels(size):
    levels = tuple(torch.randn(4, 2, 8, 3, 4))
    assert dpt_features(positions=False)(levels, size).shape == (2, 12, *size)


def test_the_dense_map_is_decoded_from_features_of_half_the_width():
    dpt = Dpt(8, 16, (8, 12, 16, 16), 4, 2)
    features = DptFeatures(8, 16, (8, 12, 16, 16), neck=8)
    features.load_state_dict({key: dpt.state_dict()[key] for key in features.state_dict()})
    levels = tuple(torch.randn(4, 1, 8, 2, 3))
    expected = dpt.last(F.relu(dpt.head(features(levels, (28, 42)))))
    assert torch.equal(dpt(levels, (28, 42)), expected)


def test_only_positions_tell_left_from_right():
    """With kernels that are their own mirror images, a mirrored image gives the mirrored map."""
    for positions in (False, True):
        features = dpt_features(positions)
        for parameter in features.parameters():
            if parameter.ndim == 4:
                parameter.data = 0.5 * (parameter.data + parameter.data.flip(-1))
        levels = torch.randn(4, 1, 8, 3, 5)
        straight, mirrored = (features(tuple(x), (21, 35)) for x in (levels, levels.flip(-1)))
        assert torch.allclose(straight, mirrored.flip(-1), atol=1e-5) != positions


@pytest.mark.parametrize("trains", [False, True])
def test_maps_of_channel_last_tokens_stay_channels_last_in_memory(trains):
    dpt = Dpt(8, 16, (8, 12, 16, 16), 4, 2)
    tokens = [torch.randn(2, 3, 4, 8) for _ in range(4)]
    layouts = {}

    def note(name: str):
        def hook(_, inputs, output):
            maps = [x for x in (*inputs, output) if isinstance(x, torch.Tensor) and x.ndim == 4]
            layouts[name] = all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)

        return hook

    for name, module in dpt.named_modules():
        module.register_forward_hook(note(name))
    with torch.set_grad_enabled(trains):
        dpt(tuple(x.movedim(-1, 1) for x in tokens), (42, 56))
    assert len(layouts) == sum(not isinstance(module, torch.nn.ModuleList) for module in dpt.modules())
    assert all(layouts.values()), [name for name, last in layouts.items() if not last]


def test_positions_need_channels_in_fours():
    with pytest.raises(ValueError, match=r"neck 6 .* must be multiples of 4"):
        DptFeatures(8, 8, (8, 12, 16, 16), neck=6)
    DptFeatures(8, 8, (8, 12, 15, 16), neck=6, positions=False)
