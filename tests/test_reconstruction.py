"""Reconstruction against a model of exact geometry: what it adds must be exact, and it must leave no trace."""

import gc
import weakref

import numpy as np
import pytest
import torch
from synthetic_room import ExactModel, intrinsics_of, walk

from flow3r.config import BranchConfig, EncoderConfig, ModelConfig, MultiViewConfig
from flow3r.data.frame import Frame
from flow3r.errors import CheckpointError, InputError
from flow3r.geometry.camera import pixel_grid
from flow3r.model.checkpoints import save_model
from flow3r.model.fast import lay_out_for_inference
from flow3r.model.flow3r import Flow3r
from flow3r.reconstruction import depth_at_original, hash_weights, reconstruct, spread_frames
from flow3r.reconstruction.network import kept_in

ORIGINAL, FOCAL, TOKENS = (120, 200), 170.0, (20, 24)


def grey_images(numbers, size=ORIGINAL):
    return np.stack([np.full((*size, 3), 10 * number, dtype=np.uint8) for number in numbers])


def exact(count=4, **settings):
    return ExactModel(walk(count), FOCAL, ORIGINAL, **settings)


@pytest.fixture(scope="module")
def reconstruction():
    return reconstruct(grey_images(range(4)), exact(), tokens=TOKENS)


def reprojected(reconstruction, points, intrinsics):
    camera_from_world = np.linalg.inv(reconstruction.world_from_camera)
    local = np.einsum("nij,nhwj->nhwi", camera_from_world[:, :3, :3], points) + camera_from_world[:, None, None, :3, 3]
    pixels = np.einsum("nij,nhwj->nhwi", intrinsics, local)
    return pixels[..., :2] / pixels[..., 2:]


def test_the_first_camera_is_the_world_and_the_others_stand_where_they_stood(reconstruction):
    np.testing.assert_allclose(reconstruction.world_from_camera, walk(4), atol=1e-5)
    np.testing.assert_array_equal(reconstruction.world_from_camera[0], np.eye(4))
    assert reconstruction.scale == "relative"


def test_the_focal_length_is_recovered_in_original_pixels(reconstruction):
    for intrinsics in reconstruction.original_intrinsics:
        np.testing.assert_allclose(intrinsics, intrinsics_of(FOCAL, ORIGINAL), rtol=1e-4)
    np.testing.assert_allclose(
        reconstruction.frame_intrinsics[:, 0, 0], reconstruction.shared_intrinsics[0, 0], rtol=1e-4
    )
    assert reconstruction.pinhole == "shared"
    np.testing.assert_array_equal(reconstruction.intrinsics, np.tile(reconstruction.shared_intrinsics, (4, 1, 1)))


def test_points_reproject_to_their_pixels_in_model_and_original_images(reconstruction):
    grid = pixel_grid(*reconstruction.depth.shape[1:]).numpy()
    in_model = reprojected(reconstruction, reconstruction.points, reconstruction.intrinsics)
    assert np.abs(in_model - grid).max() < 1e-3
    affine = reconstruction.original_from_model
    expected = np.einsum("nij,hwj->nhwi", affine[:, :2, :2], grid) + affine[:, None, None, :2, 2]
    in_original = reprojected(reconstruction, reconstruction.points, reconstruction.original_intrinsics)
    assert np.abs(in_original - expected).max() < 1e-3
    np.testing.assert_allclose(reconstruction.points, reconstruction.raw_points, atol=2e-3)
    assert reconstruction.intrinsics_residual.max() < 1e-2


def test_the_distance_of_the_raw_pointmap_from_the_pinhole_is_a_number_of_its_own():
    noisy = reconstruct(grey_images(range(4)), exact(noise=0.01), tokens=TOKENS)
    grid = pixel_grid(*noisy.depth.shape[1:]).numpy()
    assert np.abs(reprojected(noisy, noisy.points, noisy.intrinsics) - grid).max() < 1e-3
    raw = reprojected(noisy, noisy.raw_points, noisy.intrinsics) - grid
    weight = noisy.confidence
    expected = np.sqrt((weight * (raw**2).sum(-1)).sum((1, 2)) / weight.sum((1, 2)))
    np.testing.assert_allclose(noisy.intrinsics_residual, expected, rtol=1e-3)
    assert noisy.intrinsics_residual.min() > 0.3
    np.testing.assert_allclose(noisy.original_intrinsics[:, 0, 0], FOCAL, rtol=1e-2)


def test_another_order_of_the_images_gives_the_same_scene_in_another_frame(reconstruction):
    order = [2, 0, 3, 1]
    permuted = reconstruct(grey_images(order), exact(), tokens=TOKENS)
    first_from_second = reconstruction.world_from_camera[order[0]]
    np.testing.assert_allclose(first_from_second @ permuted.world_from_camera, walk(4)[order], atol=1e-5)
    np.testing.assert_allclose(permuted.depth, reconstruction.depth[order], rtol=1e-5)
    np.testing.assert_allclose(permuted.confidence, reconstruction.confidence[order], atol=1e-6)
    moved = permuted.points @ first_from_second[:3, :3].T + first_from_second[:3, 3]
    np.testing.assert_allclose(moved, reconstruction.points[order], atol=1e-3)


def test_the_model_is_run_without_gradients_and_given_back_as_it_was():
    model = exact().train()
    model.unused.eval()
    reconstruct(grey_images(range(2)), model, tokens=TOKENS)
    training, grad, _ = model.seen[0]
    assert not training and not grad
    assert model.training and not model.unused.training
    assert torch.is_grad_enabled()


def test_the_model_is_given_back_as_it_was_even_if_it_fails():
    model = exact(count=2).train()
    with pytest.raises(IndexError):
        reconstruct(grey_images(range(4)), model, tokens=TOKENS)
    assert model.training


@pytest.mark.parametrize("field", ["local_points", "confidence_logit", "world_from_camera"])
def test_a_model_that_predicts_nan_is_refused(field):
    class Broken(ExactModel):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            getattr(prediction, field)[0, 1].view(-1)[5] = float("nan")
            return prediction

    with pytest.raises(CheckpointError, match=f"Broken: predicts NaN or infinite {field} for image 1"):
        reconstruct(grey_images(range(3)), Broken(walk(3), FOCAL, ORIGINAL), tokens=TOKENS)


def test_points_behind_the_camera_are_not_valid():
    class Behind(ExactModel):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            prediction.local_points[0, 0, :10] *= -1
            return prediction

    found = reconstruct(grey_images(range(2)), Behind(walk(2), FOCAL, ORIGINAL), tokens=TOKENS)
    assert not found.valid[0, :10].any() and found.valid[0, 10:].all()
    assert (found.depth[0, :10] == 0).all()
    np.testing.assert_allclose(found.original_intrinsics[0, 0, 0], FOCAL, rtol=1e-4)


def test_one_image_is_enough():
    found = reconstruct(grey_images([0])[0], exact(), tokens=TOKENS)
    assert len(found.names) == 1
    np.testing.assert_array_equal(found.world_from_camera[0], np.eye(4))


def test_arrays_tensors_and_lists_of_the_same_images_give_the_same(reconstruction):
    images = grey_images(range(4))
    tensor = torch.from_numpy(images).movedim(-1, 1)
    for source in (tensor, tensor / 255, list(images), list(tensor)):
        same = reconstruct(source, exact(), tokens=TOKENS)
        np.testing.assert_array_equal(same.points, reconstruction.points)
        np.testing.assert_array_equal(same.colours, reconstruction.colours)


def test_inputs_are_not_edited():
    images = torch.rand(3, 3, *ORIGINAL) * 0 + 10 / 255
    before = images.clone()
    model = exact()
    weights = hash_weights(model)
    reconstruct(images, model, tokens=TOKENS)
    assert torch.equal(images, before) and hash_weights(model) == weights


def test_mixed_sizes_share_one_grid_and_have_their_own_pinholes():
    sizes = [ORIGINAL, (200, 120), (240, 400)]
    images = [grey_images([i], size)[0] for i, size in enumerate(sizes)]
    model = exact()
    found = reconstruct(images, model, tokens=TOKENS)
    assert found.pinhole == "per-frame"
    assert found.original_sizes.tolist() == [list(size) for size in sizes]
    np.testing.assert_array_equal(found.intrinsics, found.frame_intrinsics)
    assert model.seen[0][2][-2:] == reconstruct(images[0], exact(), tokens=TOKENS).depth.shape[1:]
    corners = found.original_from_model @ np.array([found.depth.shape[2] / 2, found.depth.shape[1] / 2, 1])
    np.testing.assert_allclose(corners[:, :2], np.array(sizes)[:, ::-1] / 2, atol=0.51)


def test_a_grid_that_the_first_frame_does_not_predict_is_found():
    images = [grey_images([0], (200, 120))[0], *grey_images([1, 2])]
    found = reconstruct(images, exact(), tokens=TOKENS)
    assert found.depth.shape[2] > found.depth.shape[1]


def test_padding_is_marked_and_has_no_point():
    found = reconstruct(grey_images(range(2)), exact(), tokens=(16, 16), fit="pad")
    assert 0 < found.valid.mean() < 1
    assert (found.depth[~found.valid] == 0).all() and (found.depth[found.valid] > 0).all()
    corners = found.original_from_model @ np.array([0, found.depth.shape[1] / 2, 1])
    np.testing.assert_allclose(corners[:, 0], 0, atol=1e-9)


def test_depth_at_original_size_is_nearest_and_never_mixed(reconstruction):
    depth = depth_at_original(reconstruction, 1)
    assert depth.shape == ORIGINAL
    assert set(np.unique(depth)) <= {0.0, *np.unique(reconstruction.depth[1])}
    model_from_original = np.linalg.inv(reconstruction.original_from_model[1])
    for y, x in ((0, 100), (60, 13), (119, 187), (33, 150)):
        column, row, _ = np.floor(model_from_original @ [x + 0.5, y + 0.5, 1]).astype(int)
        assert depth[y, x] == reconstruction.depth[1, row, column]
    left = reconstruction.original_from_model[1, 0, 2]
    assert left > 5 and (depth[:, : int(left)] == 0).all() and (depth[:, int(left) + 1] > 0).all()


def test_frames_are_spread_over_the_source():
    assert spread_frames(3, 32) == [0, 1, 2]
    assert spread_frames(1, 32) == [0]
    assert spread_frames(100, 1) == [0]
    spread = spread_frames(1001, 5)
    assert spread == [0, 250, 500, 750, 1000]


class CountedSequence:
    """Hands out frames and counts how many of their images stand in memory together."""

    name = "counted"

    def __init__(self):
        self.images, self.most, self.asked = [], 0, []

    def __len__(self):
        return 1001

    def timestamps(self):
        return np.arange(1001) / 25

    def sizes(self, indices):
        return [(480, 800)] * len(indices)

    def frames(self, indices):
        for index in indices:
            image = grey_images([0], (480, 800))[0]
            self.asked.append(index)
            self.images.append(weakref.ref(image))
            gc.collect()
            self.most = max(self.most, sum(image() is not None for image in self.images))
            yield Frame(image=image, timestamp=index / 25, name=f"counted_{index}")


def test_a_long_video_is_read_one_frame_at_a_time_and_only_where_needed():
    sequence = CountedSequence()
    found = reconstruct(sequence, exact(count=1), tokens=TOKENS, max_frames=5)
    assert sequence.asked == [0, 250, 500, 750, 1000]
    assert sequence.most <= 2  # the one that is read, and the one before it
    np.testing.assert_allclose(found.timestamps, [0, 10, 20, 30, 40])
    assert found.frame_indices.tolist() == sequence.asked


def tiny_flow3r():
    """A Flow3r of random weights, a few thousand of them."""
    return Flow3r(
        ModelConfig(
            encoder=EncoderConfig(width=32, depth=1, heads=2, registers=1, position_grid=4),
            multiview=MultiViewConfig(width=32, depth=2, heads=2, registers=1),
            branch=BranchConfig(width=32, depth=4, heads=2, camera_width=32),
            flow=None,
        )
    )


def test_a_flow3r_reconstructs_a_folder_in_any_precision_and_its_exports_hold_together(tmp_path):
    from PIL import Image

    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    model = tiny_flow3r()
    exact, rounded = (reconstruct(tmp_path, model, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact.names == ("0.png", "1.png", "2.png") and exact.model == "Flow3r"
    low, high = model.config.tokens
    assert low <= exact.depth[0].size / 14**2 <= high
    np.testing.assert_allclose(rounded.depth, exact.depth, rtol=0.1)
    assert len(hash_weights(model)) == 64 and hash_weights(model) != hash_weights(tiny_flow3r())


def test_a_model_is_loaded_by_path(tmp_path):
    model = tiny_flow3r()
    save_model(model, tmp_path / "tiny.safetensors")
    found = reconstruct(grey_images([0, 1]), tmp_path / "tiny.safetensors", device="cpu", tokens=TOKENS)
    assert found.model == "tiny.safetensors" and found.weights_sha256 == hash_weights(model)
    with pytest.raises(CheckpointError, match="missing"):
        reconstruct(grey_images([0]), tmp_path / "missing.safetensors", device="cpu")


def test_weights_kept_in_bf16_as_on_a_gpu_give_the_same_scene_to_their_rounding():
    images, model = np.random.default_rng(0).integers(0, 255, (3, 60, 80, 3), dtype=np.uint8), tiny_flow3r()
    plain = reconstruct(images, model, dtype=torch.float32)
    lay_out_for_inference(model, kept_in(torch.device("cuda"), torch.bfloat16))
    lower = reconstruct(images, model)
    assert model.encoder.patch_embed.weight.dtype == torch.bfloat16
    np.testing.assert_allclose(lower.depth, plain.depth, rtol=0.1)
    assert lower.weights_sha256 != plain.weights_sha256  # they are other weights


def test_a_model_that_is_loaded_works_in_parts_and_gives_what_it_gives_at_once(tmp_path, monkeypatch):
    save_model(tiny_flow3r(), tmp_path / "tiny.safetensors")
    scenes = []
    for tokens in (10, 1_000_000):
        monkeypatch.setattr("flow3r.reconstruction.network.TOKENS_AT_ONCE", tokens)
        found = reconstruct(grey_images([0, 1, 2]), tmp_path / "tiny.safetensors", device="cpu", dtype=torch.float32)
        scenes.append(found)
    np.testing.assert_allclose(scenes[0].depth, scenes[1].depth, rtol=1e-4)
    np.testing.assert_allclose(scenes[0].world_from_camera, scenes[1].world_from_camera, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/video.mp4", "no/such/video.mp4"),
        (np.zeros((0, 60, 60, 3), dtype=np.uint8), "at least one image"),
        (np.zeros((2, 60, 60, 3), dtype=np.float32), "expected a uint8 array"),
        (np.zeros((2, 60, 60), dtype=np.uint8), "expected a uint8 array"),
        (np.zeros((2, 13, 60, 3), dtype=np.uint8), "image 0: is 13x60; expected at least 14"),
        (torch.full((2, 3, 60, 60), float("nan")), "without NaN"),
        (torch.full((2, 3, 60, 60), 128.0), "outside"),
        (torch.zeros(2, 60, 60, 3), "expected a tensor"),
    ],
)
def test_sources_that_cannot_be_used_are_refused_in_one_line(source, message):
    with pytest.raises(InputError, match=message) as caught:
        reconstruct(source, exact(), tokens=TOKENS)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=tmp_path.name):
        reconstruct(tmp_path, exact(), tokens=TOKENS)


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="max_frames is 0"):
        reconstruct(grey_images([0]), exact(), max_frames=0)
    with pytest.raises(InputError, match="the model is on cpu"):
        reconstruct(grey_images([0]), exact(), device="meta")
