import dataclasses
import json
from pathlib import Path

import pytest
import torch
from tiny_model import TINY_REFERENCE, TINY_VGGT

from flow3r.adapt import adapt
from flow3r.data.worlds import render_worlds
from flow3r.draw import save_png
from flow3r.errors import InputError
from flow3r.model.checkpoints import save_model
from flow3r.model.vggt import Vggt


def test_vggts_family_adapts_to_footage_by_flow_beside_worlds(tmp_path: Path):
    torch.manual_seed(0)
    save_model(Vggt(dataclasses.replace(TINY_VGGT, tokens=(40, 60))), tmp_path / "tiny.safetensors")
    frames = tmp_path / "frames"
    frames.mkdir()
    for k, image in enumerate(render_worlds([3], 6, (168, 224), difficulty=0.0).views.images[0]):
        save_png(frames / f"{k}.png", image)
    adapted = adapt([frames], tmp_path / "run", model=tmp_path / "tiny.safetensors", steps=10, quiet=True)
    assert isinstance(adapted.model, Vggt) and adapted.steps == 10
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(value is not None for line in lines for value in line.values())


def test_a_model_without_a_flow_head_is_refused_before_anything_is_labelled(tmp_path: Path):
    save_model(Vggt(TINY_REFERENCE), tmp_path / "tiny.safetensors")
    with pytest.raises(InputError, match="no flow head"):
        adapt(["missing.mp4"], tmp_path / "run", model=tmp_path / "tiny.safetensors", quiet=True)
    assert not (tmp_path / "run").exists()
