"""Our model on the maintainers' small weights of the public layout gives the reference implementation's numbers."""

import pytest
import torch
from safetensors.torch import load_file

from flow3r.geometry.camera import pixel_grid
from flow3r.geometry.flow import ndc_from_pixels
from flow3r.model.checkpoints import load_model
from flow3r.nn.rope import rotary_table

TASKS = {"point": "point_branch", "conf": "confidence_branch", "camera": "camera_branch"}


@pytest.fixture(scope="module")
def model(shared):
    return load_model(shared / "parity" / "flow3r_tiny.safetensors")


@pytest.fixture(scope="module")
def reference(shared):
    return load_file(shared / "parity" / "flow3r_tiny_io.safetensors")


@pytest.fixture(scope="module")
def patches(reference):
    """A function that drops the registers of (N, T, D) and lays the rest out as (1, N, h, w, D)."""
    registers, (height, width) = 5, reference["images"].shape[-2:]

    def lay_out(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, registers:].unflatten(1, (height // 14, width // 14))[None]

    return lay_out


def agree(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_outputs(model, reference):
    prediction = model(reference["images"], reference["pair_indices"])
    agree(prediction.local_points, reference["local_points"])
    agree(prediction.world_points, reference["points"])
    agree(prediction.confidence_logit[..., None], reference["conf"])
    agree(prediction.world_from_camera, reference["camera_poses"])
    displacement = prediction.flow.displacement
    target = displacement + pixel_grid(*displacement.shape[2:4], displacement.device)
    agree(ndc_from_pixels(target), reference["flow"])


@torch.no_grad()
def test_encoder_and_multi_view_tokens(model, reference):
    normalised = (reference["images"] - model.image_mean) / model.image_std
    agree(model.encoder(normalised.flatten(0, 1)).flatten(1, 2), reference["mid.encoder_patch_tokens"])
    agree(model.encode(reference["images"]).flatten(0, 1), reference["mid.decoder_hidden"])


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_branches(model, reference, patches, task):
    out, hidden = getattr(model, TASKS[task])(reference["mid.decoder_hidden"], (4, 6), keep=4)
    agree(out[None], patches(reference[f"mid.{task}_decoder_out"]))
    if task != "conf":
        for level in range(4):
            agree(hidden[level][None], patches(reference[f"mid.{task}_decoder_intermediate_{level}"]))


@torch.no_grad()
def test_registers_too(model, reference):
    """What the branches make of every token, and where the tokens stand."""
    hidden = reference["mid.decoder_hidden"]
    positions = reference["mid.decoder_pos"][0].float()  # (y, x), registers at (0, 0)
    frequency = 100.0 ** (-torch.arange(4) / 4)
    angle = (positions[:, :, None] * frequency).tile(1, 1, 2).flatten(1)
    cosine, sine = rotary_table(4, 6, 5, 16, 100.0, hidden.device, torch.float32)
    agree(cosine, angle.cos())
    agree(sine.abs(), angle.sin().abs())
    for task, name in TASKS.items():
        branch = getattr(model, name)
        x = branch.project_in(hidden)
        for index, block in enumerate(branch.blocks):
            x = block(x, (cosine, sine))
            if task != "conf" and index > 0:
                agree(x, reference[f"mid.{task}_decoder_intermediate_{index - 1}"])
        agree(branch.project_out(x), reference[f"mid.{task}_decoder_out"])


@torch.no_grad()
def test_latents(model, reference, patches):
    latents = model.latents(reference["images"])
    for level in range(4):
        agree(latents.geometry[level], patches(reference[f"mid.point_decoder_intermediate_{level}"]))
        agree(latents.camera[level], patches(reference[f"mid.camera_decoder_intermediate_{level}"]))


@torch.no_grad()
def test_fused_latents_of_pairs(model, reference, patches):
    i, j = reference["pair_indices"][0].unbind(-1)
    for level in range(4):
        geometry = patches(reference[f"mid.point_decoder_intermediate_{level}"])
        camera = patches(reference[f"mid.camera_decoder_intermediate_{level}"])
        head = model.flow_head
        fused = head.fuse(head.source_part(geometry, camera)[i] + head.target_part(camera)[j][:, None, None])
        agree(fused, reference[f"mid.flow_fused_{level}"])
