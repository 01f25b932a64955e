"""Graphs for other runtimes say what the model says, or are not written."""

import dataclasses

import pytest
import torch
from tiny_model import TINY, TINY_REFERENCE, tiny_images, tiny_model
from torch.nn import functional as F

from flow3r.errors import Flow3rError, InputError
from flow3r.geometry.se3 import nearest_rotation, rotation_from_quaternion
from flow3r.model import graph
from flow3r.model.graph import (
    TOLERANCE,
    export_graph,
    export_onnx,
    export_program,
    in_plain_operations,
    named_outputs,
    nearest_rotation_by_squaring,
)

SHORT = dataclasses.replace(TINY, multiview=dataclasses.replace(TINY.multiview, depth=2))
PAIRS = torch.tensor([[[1, 0]]])


@torch.no_grad()
def test_a_program_says_what_the_model_says_and_leaves_it_as_it_was(tmp_path):
    model, images = tiny_model(SHORT).eval(), tiny_images(views=2, height=14, width=42)
    differences = export_program(model, tmp_path / "graph.pt2", 2, 14, 42, pairs=1)
    expected = named_outputs(model(images, PAIRS))
    assert list(differences) == list(expected) == [
        "local_points", "confidence_logit", "world_from_camera", "world_points", "flow"
    ]  # fmt: skip
    got = torch.export.load(tmp_path / "graph.pt2").module()(images, PAIRS)
    for name, value in zip(expected, got, strict=True):
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.pt2"]


@pytest.mark.parametrize("config", [SHORT, TINY_REFERENCE], ids=["flow3r", "vggt"])
@torch.no_grad()
def test_an_onnx_graph_says_what_the_model_says(config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra 'export'")
    pytest.importorskip("onnxscript", reason="onnxscript comes with the extra 'export'")
    model, images = tiny_model(config).eval(), tiny_images(views=2, height=14, width=42)
    pairs = {"pairs": PAIRS} if config.flow else {}
    export_onnx(model, tmp_path / "graph.onnx", 2, 14, 42, pairs=len(pairs))
    expected = named_outputs(model(images, *pairs.values()))
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
    assert [value.name for value in session.get_outputs()] == list(expected)
    got = session.run(None, {name: x.numpy() for name, x in {"images": images, **pairs}.items()})
    for name, value in zip(expected, got, strict=True):
        wanted = expected[name]
        assert (torch.from_numpy(value) - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("config", [TINY, TINY_REFERENCE], ids=["flow3r", "vggt"])
@torch.no_grad()
def test_plain_operations_compute_the_same(config):
    model, images = tiny_model(config), tiny_images(height=14, width=42)
    before = model.state_dict()
    plain = named_outputs(in_plain_operations(model, 14, 42)(images))
    for name, value in named_outputs(model(images)).items():
        torch.testing.assert_close(plain[name], value, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_graph_that_errs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda graph, inputs, strict: graph)
    monkeypatch.setattr(torch.export, "save", lambda program, file: file.write_bytes(b"graph"))

    class Wrong:
        def module(self):
            return lambda images: tuple(1.01 * value for value in named_outputs(tiny_model(SHORT)(images)).values())

    monkeypatch.setattr(torch.export, "load", lambda file: Wrong())
    with pytest.raises(Flow3rError, match=rf"not written.*by 0.01 .*at most {TOLERANCE}"):
        export_program(tiny_model(SHORT), tmp_path / "graph.pt2", 1, 14, 14)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "size", "pairs", "said"),
    [
        ("a.obj", (14, 14), 0, "a.obj: a graph is written as .onnx or .pt2"),
        ("a.pt2", (15, 14), 0, "no graph of 2 views of 15x14 and 0 pairs: .*multiples of 14"),
        ("a.pt2", (14, 14), 1, "no graph of .* 1 pairs: .*without a flow head"),
        ("a.pt2", (14, 14), -1, "no graph of .* -1 pairs: expected"),
        ("a.pt2", (-14, 14), 0, "no graph of 2 views of -14x14"),
    ],
)
def test_what_no_graph_can_be_made_of(name, size, pairs, said, tmp_path):
    with pytest.raises(InputError, match=said):
        export_graph(tiny_model(dataclasses.replace(SHORT, flow=None)), tmp_path / name, 2, *size, pairs)
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"ONNX needs onnxruntime; pip install 'flow3r\[export\]'"):
        graph.export_onnx(tiny_model(SHORT), tmp_path / "a.onnx", 1, 14, 14)


def test_squaring_finds_the_nearest_rotation_of_any_matrix():
    matrix = F.normalize(torch.randn(4000, 3, 3, dtype=torch.float64), dim=-1)
    exact = nearest_rotation(matrix)
    singular = torch.linalg.svdvals(matrix)
    unique = singular[:, 1] + torch.linalg.det(matrix).sign() * singular[:, 2]  # 0 where many are nearest
    found = nearest_rotation_by_squaring(matrix)
    assert ((found - exact).abs().amax((-1, -2)) * unique < 1e-8).all()
    single = nearest_rotation_by_squaring(matrix.float()).double()
    assert ((single - exact).abs().amax((-1, -2)) * unique < 1e-5).all()


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-6, 1e-9, 0.0])
def test_squaring_finds_one_of_the_nearest_rotations_where_they_are_hardly_told_apart(gap):
    """M = U diag(1, s, -s + gap) V': turning about one axis hardly changes the distance, so that is compared."""
    u, v = (rotation_from_quaternion(torch.randn(200, 4, dtype=torch.float64)) for _ in range(2))
    matrix = (u @ torch.diag(torch.tensor([1.0, 0.5, -0.5 + gap], dtype=torch.float64)) @ v.mT).float()
    found = nearest_rotation_by_squaring(matrix).double()
    identity = torch.eye(3, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found @ found.mT, identity, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(200, dtype=torch.float64), atol=1e-6, rtol=0)
    best = (nearest_rotation(matrix.double()) * matrix).sum((-1, -2))
    assert (best - (found * matrix).sum((-1, -2)) < 1e-6).all()


def test_squaring_of_nothing_is_a_rotation():
    found = nearest_rotation_by_squaring(torch.zeros(1, 3, 3))
    torch.testing.assert_close(found @ found.mT, torch.eye(3)[None])
