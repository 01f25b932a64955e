"""VGGT on the maintainers' reference weights: everything between the images and the outputs, to 1e-4."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from flow3r.config import CameraHeadConfig, DenseHeadConfig, EncoderConfig, MultiViewConfig, TrackHeadConfig, VggtConfig
from flow3r.geometry.se3 import invert
from flow3r.model.heads import camera_from_code
from flow3r.model.layouts import LAYOUTS
from flow3r.model.vggt import Vggt


@pytest.fixture(scope="module")
def config(shared) -> VggtConfig:
    said = json.loads((shared / "parity" / "vggt_tiny.json").read_text())["config"]
    encoder, trunk, heads, track = (said[part] for part in ("encoder", "aggregator", "heads", "track"))
    channels = tuple(heads["out_channels"])
    return VggtConfig(
        EncoderConfig(width=encoder["embed_dim"], depth=encoder["depth"], heads=encoder["num_heads"], mask_token=True),
        MultiViewConfig(
            width=trunk["dim"],
            depth=2 * trunk["depth"],
            heads=trunk["num_heads"],
            registers=trunk["num_register_tokens"],
            norm_eps=trunk["norm_eps"],
            camera_tokens=1,
            first_view=True,
        ),
        levels=tuple(heads["intermediate_layer_idx"]),
        camera=CameraHeadConfig(depth=heads["camera_trunk_depth"], heads=heads["camera_num_heads"]),
        dense=DenseHeadConfig(features=heads["features"], level_channels=channels),
        track=TrackHeadConfig(
            features=track["features"],
            level_channels=channels,
            corr_levels=track["corr_levels"],
            corr_radius=track["corr_radius"],
            hidden=track["hidden_size"],
            depth=track["depth"],
            stride=track["stride"],
            iterations=track["iters"],
        ),
    )


@pytest.fixture(scope="module")
def model(shared, config) -> Vggt:
    model = Vggt(config)
    model.load_state_dict(LAYOUTS["vggt"].to_ours(load_file(shared / "parity" / "vggt_tiny.safetensors")))
    return model.eval()


@pytest.fixture(scope="module")
def reference(shared) -> dict[str, torch.Tensor]:
    return load_file(shared / "parity" / "vggt_tiny_io.safetensors")


def agree(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_outputs(model, reference):
    prediction = model(reference["images"])
    agree(prediction.depth[..., None], reference["depth"])
    agree(1 / (1 - prediction.confidence), reference["depth_conf"])
    agree(prediction.world_points, reference["world_points"])
    agree(1 / (1 - prediction.world_confidence_logit.sigmoid()), reference["world_points_conf"])
    agree(invert(prediction.world_from_camera)[..., :3, :], reference["extrinsics_w2c"])


@torch.no_grad()
def test_tracks(model, reference):
    tracks = model.track(reference["images"], reference["query_points"] + 0.5)
    agree(tracks.pixels - 0.5, reference["track"])
    agree(tracks.visible, reference["vis"])
    agree(tracks.confidence, reference["conf"])


@torch.no_grad()
def test_every_level_of_the_transformer(model, reference, config):
    everything = range(config.multiview.depth // 2)
    images = reference["images"]
    patches = model.encoder(((images - IMAGENET[0]) / IMAGENET[1])[0])
    agree(patches.flatten(1, 2), reference["mid.encoder_patch_tokens"])
    for level, tokens in zip(everything, model.multiview(patches[None], tuple(everything)), strict=True):
        agree(tokens, reference[f"mid.aggregated_{level}"])


@torch.no_grad()
def test_every_iteration_of_the_camera_head(model, reference):
    token = reference["mid.aggregated_5"][:, :, 0]
    codes = model.camera_head(token)
    for iteration, code in enumerate(codes):
        agree(code, reference[f"mid.pose_enc_iter_{iteration}"])
    agree(codes[-1], reference["pose_enc"])


def test_the_pinhole_of_a_field_of_view():
    code = torch.tensor([[0.0, 0, 0, 0, 0, 0, 2, 2 * math.atan(0.5), 2 * math.atan(0.75)]])
    pose, pinhole = camera_from_code(code, 56, 84)
    agree(pinhole, torch.tensor([[[56.0, 0, 42], [0, 56, 28], [0, 0, 1]]]))
    agree(pose, torch.eye(4)[None])
    assert (
        camera_from_code(torch.zeros(1, 9), 56, 84)[1].isfinite().all()
    )  # the public head may predict no field of view


IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
