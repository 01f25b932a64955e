from dataclasses import replace

import pytest
import torch
from tiny_model import TINY, TINY_VGGT, tiny_images

from flow3r.config import LossConfig, MatcherConfig
from flow3r.data.worlds import render_worlds
from flow3r.errors import CheckpointError
from flow3r.losses.objective import OBJECTIVES
from flow3r.model.checkpoints import initialise_from, load_model, save_model
from flow3r.model.flow3r import Flow3r
from flow3r.model.matcher import Matcher
from flow3r.model.vggt import Vggt
from flow3r.types import Flow, Views

PAIRS = torch.tensor([[[0, 1], [1, 0], [2, 1]]])


def matcher_of(config) -> Matcher:
    torch.manual_seed(0)
    return Matcher(MatcherConfig(config.encoder, replace(config.multiview, camera_tokens=0), config.tokens))


@torch.no_grad()
def test_a_new_matcher_sees_hardly_any_flow():
    flow = matcher_of(TINY)(tiny_images(), PAIRS).flow
    assert flow.displacement.shape == (1, 3, 28, 42, 2) and torch.equal(flow.pairs, PAIRS)
    assert flow.displacement.abs().max() < 0.5


@torch.no_grad()
def test_flow_of_a_pair_is_the_same_among_other_pairs():
    model, images = matcher_of(TINY), tiny_images()
    together = model(images, PAIRS).flow.displacement
    for k in range(3):
        torch.testing.assert_close(model(images, PAIRS[:, k : k + 1]).flow.displacement[:, 0], together[:, k])


@torch.no_grad()
def test_attention_over_views_starts_blind_to_places_and_as_likeness():
    for model in (matcher_of(TINY), Flow3r(TINY), Vggt(TINY_VGGT)):
        places = model.encoder.position_table[0, 1:]
        over_views = model.multiview.projection(places)
        rows = [(block, places) for block in model.encoder.blocks]
        rows += [(block, over_views) for block in model.multiview.blocks[1::2]]
        for block, where in rows:
            query, key, value = block.attention.qkv.weight.chunk(3)
            differences = where - where.mean(0)
            assert torch.equal(query, key)
            assert (differences @ query.mT).norm() < 1e-3 * (differences @ value.mT).norm()
        for block in model.multiview.blocks[::2]:
            query, key, _ = block.attention.qkv.weight.chunk(3)
            assert torch.equal(query, key)


def test_a_matcher_learns_a_shift():
    torch.manual_seed(0)
    model = matcher_of(TINY)
    images = torch.rand(4, 1, 3, 3, 4).repeat_interleave(14, -1).repeat_interleave(14, -2)
    images = torch.cat([images, images.roll(14, -1)], dim=1)
    pairs = torch.tensor([[[0, 1], [1, 0]]]).expand(4, -1, -1)
    shift = torch.tensor([14.0, 0.0]).expand(42, 56, 2)
    truth = torch.stack([shift, -shift]).expand(4, -1, -1, -1, -1)
    views = Views(images, flow=Flow(pairs, truth, torch.ones(4, 2, 42, 56)))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        objective = OBJECTIVES[MatcherConfig](model(images, pairs), views, LossConfig())
        assert set(objective.terms) == {"flow"}
        optimizer.zero_grad()
        objective.total.backward()
        optimizer.step()
        losses.append(objective.total.item())
    with torch.no_grad():
        error = (model(images, pairs).flow.displacement - truth).norm(dim=-1).mean()
    assert error < 4.0 and losses[-1] < 0.5 * losses[0]


def test_what_a_matcher_does_not_predict():
    with pytest.raises(ValueError, match="flow alone; got outputs points"):
        matcher_of(TINY)(tiny_images(), PAIRS, outputs=("points",))
    views = render_worlds([0], 2, (28, 42)).views
    with pytest.raises(ValueError, match="no loss term"):
        OBJECTIVES[MatcherConfig](matcher_of(TINY)(tiny_images(), PAIRS), views, LossConfig())


@pytest.mark.parametrize(("config", "kind"), [(TINY, Flow3r), (TINY_VGGT, Vggt)], ids=["pi3", "vggt"])
def test_a_model_takes_the_trunk_of_a_matcher_and_keeps_its_own_heads(tmp_path, config, kind):
    matcher, model = matcher_of(config), kind(config)
    save_model(matcher, tmp_path / "matcher.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise_from(model, tmp_path / "matcher.safetensors")
    for name, value in model.state_dict().items():
        trunk = name.startswith(("encoder.", "multiview.")) and name != "multiview.camera_tokens"
        assert torch.equal(value, (matcher.state_dict() if trunk else before)[name]), name


def test_a_trunk_of_other_sizes_and_a_matcher_asked_for_geometry(tmp_path):
    save_model(matcher_of(TINY), tmp_path / "matcher.safetensors")
    deeper = replace(TINY, multiview=replace(TINY.multiview, depth=TINY.multiview.depth + 2))
    with pytest.raises(CheckpointError, match=r"multiview\.depth"):
        initialise_from(Flow3r(deeper), tmp_path / "matcher.safetensors")
    with pytest.raises(CheckpointError, match=r"a matcher, which predicts no geometry.*init_from"):
        load_model(tmp_path / "matcher.safetensors")


def test_a_matcher_goes_on_from_its_own_weights(tmp_path):
    matcher, other = matcher_of(TINY), Matcher(matcher_of(TINY).config)
    save_model(matcher, tmp_path / "matcher.safetensors")
    initialise_from(other, tmp_path / "matcher.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(matcher.state_dict().values(), other.state_dict().values()))
