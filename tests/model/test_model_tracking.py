"""VGGT's track head: the reference implementation's numbers, its parts in a few slow lines, and its symmetries."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from flow3r.config import TrackHeadConfig
from flow3r.model.layouts import LAYOUTS
from flow3r.model.tracking import (
    CrossAttention,
    Tracker,
    TrackHead,
    correlate,
    embed_displacements,
    embed_positions,
)

CONFIG = TrackHeadConfig(
    features=8,
    level_channels=(8, 8, 12, 12),
    corr_levels=3,
    corr_radius=2,
    hidden=16,
    depth=2,
    virtual_tracks=5,
    heads=2,
)
SIZE = (28, 42)


@pytest.fixture
def head() -> TrackHead:
    """Seeded weights of full gain, in place of the initial ones, which leave tracks where they are."""
    head = TrackHead(12, CONFIG)
    for parameter in head.parameters():
        noise = torch.randn_like(parameter)
        parameter.data = noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else parameter.data + 0.2 * noise
    return head


def made_levels(scenes: int = 1, views: int = 3) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(4, scenes, views, 2, 3, 12))


def made_queries(scenes: int = 1, count: int = 5) -> torch.Tensor:
    return torch.rand(scenes, count, 2) * torch.tensor([42.0, 28.0])


# The reference implementation's numbers


def track_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those of the track head, under our names, from those of a public VGGT."""
    ours = LAYOUTS["vggt"].to_ours({key: value for key, value in tensors.items() if key.startswith("track_head.")})
    return {key.removeprefix("track_head."): value for key, value in ours.items()}


@pytest.fixture(scope="module")
def public(shared) -> TrackHead:
    sizes = TrackHeadConfig(features=32, level_channels=(16, 24, 32, 40), corr_levels=3, hidden=64, depth=2)
    head = TrackHead(96, sizes)
    head.load_state_dict(track_tensors(load_file(shared / "parity" / "vggt_tiny.safetensors")))
    return head


@pytest.fixture(scope="module")
def reference(shared) -> dict[str, torch.Tensor]:
    return load_file(shared / "parity" / "vggt_tiny_io.safetensors")


@pytest.fixture(scope="module")
def reference_levels(reference) -> tuple[torch.Tensor, ...]:
    specials = 5  # camera and register tokens
    return tuple(reference[f"mid.aggregated_{k}"][:, :, specials:].unflatten(2, (4, 6)) for k in (1, 2, 4, 5))


def agree(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_reference_s_features(public, reference, reference_levels):
    agree(public.features(reference_levels, (56, 84)), reference["mid.track_features"])


@torch.no_grad()
def test_the_reference_s_places_after_every_iteration(public, reference):
    found, visible, confidence = public.tracker(reference["mid.track_features"], reference["query_points"] / 2)
    for index, places in enumerate(found):
        agree(2 * places.transpose(1, 2), reference[f"mid.track_iter_{index}"])
    agree(visible.transpose(1, 2), reference["vis"])
    agree(confidence.transpose(1, 2), reference["conf"])


@torch.no_grad()
def test_the_reference_s_tracks_with_half_a_pixel_between_its_centres_and_ours(public, reference, reference_levels):
    tracks = public(reference_levels, reference["query_points"] + 0.5, (56, 84))
    agree(tracks.pixels - 0.5, reference["track"])
    agree(tracks.visible, reference["vis"])
    agree(tracks.confidence, reference["conf"])


@pytest.fixture(scope="module")
def full() -> TrackHead:
    with torch.device("meta"):
        return TrackHead(2048, TrackHeadConfig())


def test_the_default_has_the_public_number_of_parameters(full):
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in full.named_children()}
    assert parts["norm"] + parts["dpt"] == 22_834_048
    assert parts["tracker"] == 43_107_348


def test_the_default_has_the_public_names_and_shapes(full, shared):
    expected = json.loads((shared / "spec/keys/vggt_full_keys.json").read_text())
    public = LAYOUTS["vggt"].from_ours({f"track_head.{key}": value for key, value in full.state_dict().items()})
    shapes = {key: list(value.shape) for key, value in public.items()}
    assert shapes == {key: shape for key, shape in expected.items() if key.startswith("track_head.")}


# Parts, in a few slow lines


def value_at(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of an image (c, h, w) at (x, y), pixel centres at integers: a mean of four pixels, those beyond it being 0."""
    left, top = math.floor(x.item()), math.floor(y.item())
    total = torch.zeros(len(image))
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        if 0 <= column < image.shape[2] and 0 <= row < image.shape[1]:
            total = total + (1 - (x - column).abs()) * (1 - (y - row).abs()) * image[:, row, column]
    return total


def slow_correlations(
    features: torch.Tensor, pyramid: list[torch.Tensor], places: torch.Tensor, radius: int
) -> torch.Tensor:
    scenes, tracks, views, channels = features.shape
    every = []
    for scene in range(scenes):
        for track in range(tracks):
            for view in range(views):
                x, y = places[scene, track, view]
                for level, maps in enumerate(pyramid):
                    image = maps[scene * views + view]
                    for right in range(-radius, radius + 1):
                        for down in range(-radius, radius + 1):
                            seen = value_at(image, x / 2**level + right, y / 2**level + down)
                            every.append(features[scene, track, view] @ seen / math.sqrt(channels))
    return torch.stack(every).view(scenes, tracks, views, -1)


def test_correlations_are_scaled_products_over_a_window_column_by_column():
    leaves = [
        torch.randn(1, 2, 2, 4),
        torch.randn(2, 4, 6, 9),
        torch.rand(1, 2, 2, 2) * torch.tensor([12.0, 8.0]) - 1.5,
    ]
    results = []
    for form in (correlate, slow_correlations):
        features, maps, places = (leaf.clone().requires_grad_() for leaf in leaves)
        scores = form(features, [maps, F.avg_pool2d(maps, 2)], places, 2)
        (scores * torch.linspace(-1, 1, scores.numel()).view_as(scores)).sum().backward()
        results.append((scores, features.grad, maps.grad, places.grad))
    assert results[0][0].shape == (1, 2, 2, 2 * 25)
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)


def test_a_map_of_one_pixel_has_it_everywhere():
    features, pixel = torch.randn(1, 3, 1, 4), torch.randn(1, 4, 1, 1)
    scores = correlate(features, [pixel], 9 * torch.randn(1, 3, 1, 2), 2)
    torch.testing.assert_close(scores, (features @ pixel.flatten() / 2)[..., None].expand(1, 3, 1, 25))


def test_positions_are_those_of_a_map_read_between_its_pixels():
    width, (rows, columns), (x, y) = 12, (5, 7), (2.25, 3.5)
    frequencies = [10000 ** (-k / 3) for k in range(3)]

    def position(place: int) -> list[float]:
        return [f(place * frequency) for f in (math.sin, math.cos) for frequency in frequencies]

    table = torch.tensor([[position(column) + position(row) for column in range(columns)] for row in range(rows)])
    expected = value_at(table.movedim(-1, 0), torch.tensor(x), torch.tensor(y))
    got = embed_positions(torch.tensor([[[x, y], [-3.0, 99.0]]]), width, (rows, columns))[0]
    torch.testing.assert_close(got[0], expected[:width])
    torch.testing.assert_close(got[1], table[-1, 0])  # beyond the map, its border


def test_displacements_by_sine_and_cosine_in_turn():
    x, y = 0.31, -0.07
    expected = [f(v * 1000 / 4 * 2 * k) for v in (x, y) for k in range(2) for f in (math.sin, math.cos)]
    torch.testing.assert_close(embed_displacements(torch.tensor([x, y]), 8), torch.tensor(expected), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_tracker_sees_displacements_twice_in_parts_of_518(head):
    inputs, queries = [], made_queries() / 2
    head.tracker.updater.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    found, _, _ = head.tracker(torch.randn(1, 3, 8, 14, 21), queries)
    moved = (found[0] - queries[:, :, None]).tile(2)
    grown = (inputs[1] - inputs[0])[..., 8:12]  # behind the 8 sines and cosines; nothing had moved at first
    torch.testing.assert_close(grown, moved / 518, atol=1e-6, rtol=1e-4)


def test_cross_attention_is_that_of_torch():
    ours, theirs = CrossAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    ours.load_state_dict(
        {names.get(k, k.replace("out_", "")): torch.randn_like(v) for k, v in theirs.named_parameters()}
    )
    theirs.load_state_dict({k: ours.state_dict()[names.get(k, k.replace("out_", ""))] for k in theirs.state_dict()})
    x, context = torch.randn(2, 4, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context, need_weights=False)[0])


# Symmetries and edges


def in_double(tracker: Tracker, maps: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Last places, visibility, confidence. In fp32 the steep sines of displacements turn 1e-6 pixels into 1e-2."""
    found, *judgements = tracker.double()(maps.double(), places.double())
    return found[-1], *judgements


@torch.no_grad()
def test_tracks_permute_with_their_queries(head):
    maps, places, order = torch.randn(1, 3, 8, 14, 21), made_queries() / 2, torch.tensor([3, 0, 4, 1, 2])
    straight = in_double(head.tracker, maps, places)
    permuted = in_double(head.tracker, maps, places[:, order])
    assert (straight[0][:, :, 1:] - straight[0][:, :, :1]).abs().amin() > 1e-3  # they do move
    for one, other in zip(permuted, straight, strict=True):
        torch.testing.assert_close(one, other[:, order], atol=1e-8, rtol=0)


@torch.no_grad()
def test_tracks_see_each_other_and_scenes_do_not(head):
    maps, places = torch.randn(2, 3, 8, 14, 21), made_queries(scenes=2) / 2
    both = in_double(head.tracker, maps, places)
    for scene in range(2):
        one = slice(scene, scene + 1)
        alone = in_double(head.tracker, maps[one], places[one])
        fewer = in_double(head.tracker, maps[one], places[one, :4])
        for together, apart, less in zip(both, alone, fewer, strict=True):
            torch.testing.assert_close(together[one], apart, atol=1e-8, rtol=0)
            assert (apart[:, :4, 1:] - less[:, :, 1:]).abs().max() > 1e-4


@torch.no_grad()
def test_tracks_pass_through_their_queries_and_are_judged_between_0_and_1(head):
    queries = torch.tensor([[[0.0, 0.0], [42.0, 28.0], [17.5, 3.5]]])
    tracks = head(made_levels(), queries, SIZE)
    assert tracks.pixels.shape == (1, 3, 3, 2)
    torch.testing.assert_close(tracks.pixels[:, 0], queries)
    for judgement in (tracks.visible, tracks.confidence):
        assert judgement.shape == (1, 3, 3) and ((judgement > 0) & (judgement < 1)).all()


def test_gradients_reach_the_levels_and_every_parameter(head):
    levels = tuple(level.requires_grad_() for level in made_levels())
    tracks = head(levels, made_queries(), SIZE)
    (tracks.pixels.square().sum() + tracks.visible.sum() + tracks.confidence.sum()).backward()
    for tensor in (*levels, *head.parameters()):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().max() > 0


@torch.no_grad()
def test_the_tracker_is_in_full_precision_under_autocast(head):
    levels, queries = made_levels(), made_queries()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tracks = head(levels, queries, SIZE)
        maps = head.features(levels, SIZE)
    assert maps.dtype == torch.bfloat16 and tracks.pixels.dtype == torch.float32
    found, _, _ = head.tracker(maps.float(), (queries - 0.5) / 2)
    assert torch.equal(tracks.pixels, 2 * found[-1].transpose(1, 2) + 0.5)


@torch.no_grad()
def test_images_must_hold_the_levels_of_correlation(head):
    assert head(tuple(torch.randn(4, 1, 2, 1, 2, 12)), torch.rand(1, 5, 2), (8, 42)).pixels.isfinite().all()
    with pytest.raises(ValueError, match="images are 7x42; 3 levels of correlation need both sides to be at least 8"):
        head(made_levels(), made_queries(), (7, 42))


@pytest.mark.parametrize(
    ("queries", "said"),
    [
        (torch.rand(2, 5, 2), r"shape \(2, 5, 2\), expected floats \(1, n, 2\)"),
        (torch.rand(1, 5, 3), r"shape \(1, 5, 3\)"),
        (torch.rand(5, 2), r"shape \(5, 2\)"),
        (torch.ones(1, 5, 2, dtype=torch.int64), "int64"),
        (torch.rand(1, 0, 2), "at least one"),
        (torch.tensor([[[42.5, 3.0]]]), r"42.5; expected pixels \(x, y\) within \[0, 42\] x \[0, 28\]"),
        (torch.tensor([[[3.0, -0.5]]]), "reach from -0.5"),
        (torch.tensor([[[3.0, math.nan]]]), "within"),
    ],
)
def test_queries_are_pixels_of_the_first_view(head, queries, said):
    with pytest.raises(ValueError, match=said):
        head(made_levels(), queries, SIZE)
