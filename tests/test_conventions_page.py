"""The code on docs/conventions.md runs, and its assertions hold."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from flow3r.export import write_reconstruction
from flow3r.geometry.camera import crop_and_resize_affine, unproject
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle, transform_maps
from flow3r.types import Reconstruction

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conventions.md"


def sections() -> dict[str, str]:
    """The Python of each section."""
    found = {}
    for section in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        code = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        if code:
            found[section.splitlines()[0].strip("# ")] = "\n".join(code)
    return found


def reconstruction() -> tuple[Reconstruction, np.ndarray]:
    """Three frames of a made-up scene, twice as large as the model saw them, and the original images."""
    height, width = 12, 16
    turn = torch.linspace(0, 1, 3, dtype=torch.float64)[:, None] * torch.tensor([0.2, -0.5, 0.1])
    poses = from_parts(rotation_from_axis_angle(turn), turn * 2)
    depth = 1 + torch.rand(3, height, width, dtype=torch.float64)
    lens = torch.tensor([[14.0, 0, 8], [0, 14, 6], [0, 0, 1]], dtype=torch.float64).expand(3, 3, 3)
    points = transform_maps(poses, unproject(depth, lens)).numpy()
    original_from_model = crop_and_resize_affine((0, 0, width, height), (2 * height, 2 * width)).expand(3, 3, 3)
    images = torch.randint(0, 255, (3, 2 * height, 2 * width, 3), dtype=torch.uint8).numpy()
    made_up = Reconstruction(
        names=("a", "b", "c"),
        frame_indices=np.arange(3),
        timestamps=np.array([0.0, 0.04, 0.12]),
        original_sizes=np.tile([2 * height, 2 * width], (3, 1)),
        original_from_model=original_from_model.numpy(),
        world_from_camera=poses.numpy(),
        intrinsics=lens.numpy(),
        frame_intrinsics=lens.numpy(),
        shared_intrinsics=lens[0].numpy(),
        intrinsics_residual=np.zeros(3),
        depth=depth.numpy(),
        points=points,
        raw_points=points,
        confidence=np.ones((3, height, width)),
        colours=images[:, ::2, ::2],
        valid=np.ones((3, height, width), dtype=bool),
    )
    return made_up, images


@pytest.mark.parametrize("last", sections())
def test_the_examples_hold(last, tmp_path, monkeypatch):
    """Read from the top, as someone would who comes to this section."""
    monkeypatch.chdir(tmp_path)
    if "scene/" in sections()[last]:
        made_up, images = reconstruction()
        write_reconstruction(made_up, "scene", source=images)
    names: dict[str, object] = {}
    for section, code in sections().items():
        exec(compile(code, f"{PAGE.name}: {section}", "exec"), names)
        if section == last:
            return
