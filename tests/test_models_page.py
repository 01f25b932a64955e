"""What docs/models.md says: its code runs, its names exist, its sizes are those of the code."""

import re
from pathlib import Path

import pytest
import torch

from flow3r.config import FlowHeadConfig
from flow3r.model.flow3r import Flow3r
from flow3r.model.flow_heads import FLOW_HEADS, LatentWidths, make_flow_head
from flow3r.model.layouts import LAYOUTS
from flow3r.model.vggt import Vggt
from flow3r.presets import PRESETS

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_examples_hold():
    names: dict[str, object] = {}
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)):
        exec(compile(code, f"models.md: {number}", "exec"), names)
    assert "lower" in names


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (REPOSITORY / "docs" / link).exists(), link


@pytest.mark.parametrize(("preset", "kind"), [("flow3r", Flow3r), ("flow3r-vggt", Vggt)])
def test_models_have_the_sizes_that_the_readme_states(preset, kind):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{preset}`, "))
    with torch.device("meta"):
        model = kind(PRESETS[preset].model)
    assert row.split(" | ")[1] == f"{sum(p.numel() for p in model.parameters()):,}"


@pytest.mark.parametrize("kind", FLOW_HEADS)
def test_flow_heads_have_the_sizes_that_it_states(kind):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |"))
    stated = [float(number) for number in re.findall(r"(\d+(?:\.\d+)?)(?: M| \|$)", row)]
    counts = []
    for widths in (LatentWidths(1024, 1024, 1024, source_camera=True), LatentWidths(2048, 2048, 1024, False)):
        with torch.device("meta"):
            head = make_flow_head(FlowHeadConfig(kind=kind), widths, patch=14)
        counts.append(round(sum(p.numel() for p in head.parameters()) / 1e6, 1))
    assert stated == counts or (counts == [0.0, 0.0] and stated == [0.0])


def test_every_layout_is_named():
    for name in LAYOUTS:
        assert name.split("-")[0] in PAGE.lower() or name == "ours"
