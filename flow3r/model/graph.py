"""The network as a graph for other runtimes: torch.export (.pt2) and ONNX, for one number of views of one size.

The graph maps images (1 N 3 H W, RGB in [0, 1]) and, where flow was asked for, pairs (1 P 2, int64: source, target) to
those of `OUTPUT_NAMES` that the model predicts, in that order; the shapes are those of `Prediction` (flow3r/types.py).
What is written is read back, run on random images beside the model itself, and put in place only if they agree.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.errors import Flow3rError, InputError
from flow3r.geometry.se3 import from_parts, rotation_from_quaternion
from flow3r.model.flow3r import Flow3r
from flow3r.model.heads import CameraHead
from flow3r.model.vggt import Vggt
from flow3r.nn.dinov2 import DinoV2
from flow3r.types import Prediction

OUTPUT_NAMES = ("local_points", "confidence_logit", "world_from_camera", "world_points", "intrinsics", "flow")
TOLERANCE = 1e-3  # of the largest value of an output: the noise of fp32 in deep models is below 1e-4 of it
SQUARINGS = 24  # 2^24 steps of the power iteration, as many as fp32 can tell apart

Runner = Callable[..., tuple[Tensor, ...]]


class Graph(nn.Module):
    """A model as a function from tensors to a tuple of tensors."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, images: Float[Tensor, "B N 3 H W"], pairs: torch.Tensor | None = None) -> tuple[Tensor, ...]:
        """What the model predicts of `OUTPUT_NAMES`."""
        return tuple(named_outputs(self.model(images, pairs)).values())


def named_outputs(prediction: Prediction) -> dict[str, Tensor]:
    """The tensors of a prediction that a graph gives, by name; of flow the displacement."""
    found = {name: getattr(prediction, name) for name in OUTPUT_NAMES}
    if prediction.flow is not None:
        found["flow"] = prediction.flow.displacement
    return {name: value for name, value in found.items() if value is not None}


def export_graph(
    model: Flow3r | Vggt, path: str | Path, views: int, height: int, width: int, pairs: int = 0
) -> dict[str, float]:
    """Write the model by the suffix: .onnx by `export_onnx`, .pt2 by `export_program`. Raises InputError for others."""
    writers = {".onnx": export_onnx, ".pt2": export_program}
    if Path(path).suffix not in writers:
        raise InputError(f"{path}: a graph is written as {' or '.join(writers)}")
    return writers[Path(path).suffix](model, path, views, height, width, pairs)


@torch.no_grad()
def export_program(
    model: Flow3r | Vggt, path: str | Path, views: int, height: int, width: int, pairs: int = 0
) -> dict[str, float]:
    """Write a torch.export program, for `torch.export.load(path).module()`.

    Returns by output the largest difference from the model, in units of the output's largest value. Raises Flow3rError
    where that exceeds `TOLERANCE`, InputError for sizes that the model does not take.
    """
    inputs, expected = _trial(model, views, height, width, pairs)

    def write(file: Path) -> Runner:
        torch.export.save(torch.export.export(Graph(model), inputs, strict=False), file)
        return torch.export.load(file).module()

    return _write_checked(Path(path), write, inputs, expected)


@torch.no_grad()
def export_onnx(
    model: Flow3r | Vggt, path: str | Path, views: int, height: int, width: int, pairs: int = 0
) -> dict[str, float]:
    """Write an ONNX graph; weights beyond 2 GB stand in a file `path`.data beside it.

    Returns and raises as `export_program`; InputError also where the packages of the extra `export` lack. In ONNX there
    is no antialiased resampling, so the position table is resampled beforehand, and no singular value decomposition,
    so the nearest rotation is found by products (`nearest_rotation_by_squaring`).
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, torch's exporter writes with it
    except ImportError as error:
        raise InputError(f"ONNX needs {error.name}; pip install 'flow3r[export]'") from error
    inputs, expected = _trial(model, views, height, width, pairs)
    plain = in_plain_operations(model, height, width)

    def write(file: Path) -> Runner:
        names = ["images", "pairs"][: len(inputs)]
        program = torch.onnx.export(
            Graph(plain), inputs, dynamo=True, input_names=names, output_names=list(expected), verbose=False
        )
        program.save(file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return lambda *tensors: tuple(
            torch.from_numpy(array)
            for array in session.run(None, {name: x.cpu().numpy() for name, x in zip(names, tensors, strict=True)})
        )

    return _write_checked(Path(path), write, inputs, expected)


def in_plain_operations(model: Flow3r | Vggt, height: int, width: int) -> Flow3r | Vggt:
    """The model with its weights, for images of height x width, without antialiased resampling and decompositions."""
    patch = model.config.encoder.patch
    parts: dict[str, nn.Module] = {"encoder": _on_grid(model.encoder, (height // patch, width // patch))}
    if isinstance(model.camera_head, CameraHead):
        parts["camera_head"] = _CameraHeadBySquaring(model.camera_head)
    return _with_modules(model, parts)


class _CameraHeadBySquaring(nn.Module):
    def __init__(self, head: CameraHead):
        super().__init__()
        self.head = head

    def forward(self, tokens: Float[Tensor, "*b h w D"]) -> Float[Tensor, "*b 4 4"]:
        rows, translation = self.head.parts(tokens)
        return from_parts(nearest_rotation_by_squaring(rows), translation)


def nearest_rotation_by_squaring(matrix: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """`nearest_rotation` by products alone, without gradient.

    The quaternion q of the rotation R that maximises trace(R' M) maximises q' K q for a symmetric 4 x 4 matrix K of the
    entries of M (Davenport; Horn 1987). K is shifted to be positive and squared again and again, which leaves q q'.
    It is always a rotation: where several are nearest, one of them.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    rows = [
        torch.stack([a + e + i, h - f, c - g, d - b], dim=-1),
        torch.stack([h - f, a - e - i, b + d, c + g], dim=-1),
        torch.stack([c - g, b + d, e - a - i, f + h], dim=-1),
        torch.stack([d - b, c + g, f + h, i - a - e], dim=-1),
    ]
    form = torch.stack(rows, dim=-2)
    # No eigenvalue of K is below -(s1 + s2 + s3) >= -sqrt(3) |M|.
    shift = 3**0.5 * matrix.square().sum((-2, -1)).sqrt().clamp_min(1e-12)
    form = form + shift[..., None, None] * torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    for _ in range(SQUARINGS):
        form = form / form.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        form = form @ form
    best = form.diagonal(dim1=-2, dim2=-1).argmax(-1)
    quaternion = form.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    return rotation_from_quaternion(quaternion)


def _on_grid(encoder: DinoV2, grid: tuple[int, int]) -> DinoV2:
    """The encoder with a position table of this grid."""
    table = torch.cat([encoder.position_table[:, :1], encoder.positions(*grid)], dim=1)
    other = _with_modules(encoder, {})
    other._parameters = {**encoder._parameters, "position_table": nn.Parameter(table, requires_grad=False)}
    other.table_grid = grid
    return other


def _with_modules(module: nn.Module, parts: dict[str, nn.Module]) -> nn.Module:
    """A module that shares everything with another but for some of its parts."""
    other = copy.copy(module)
    other._modules = {**module._modules, **parts}
    return other


def _trial(
    model: Flow3r | Vggt, views: int, height: int, width: int, pairs: int
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random inputs and what the model makes of them; its tables are then at hand as constants for a tracer."""
    if min(views, height, width) < 1 or pairs < 0:
        raise InputError(f"no graph of {views} views of {height}x{width} and {pairs} pairs: expected positive sizes")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(1, views, 3, height, width, generator=generator).to(device)]
    if pairs:
        inputs.append(torch.randint(views, (1, pairs, 2), generator=generator).to(device))
    try:
        return tuple(inputs), named_outputs(model(*inputs))
    except ValueError as error:
        raise InputError(f"no graph of {views} views of {height}x{width} and {pairs} pairs: {error}") from error


def _write_checked(
    path: Path, write: Callable[[Path], Runner], inputs: tuple[Tensor, ...], expected: dict[str, Tensor]
) -> dict[str, float]:
    """Write beside `path` and move into place what agrees with the model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-graph-") as folder:
        file = Path(folder) / path.name
        got = write(file)(*inputs)
        differences = {
            name: ((value.to(wanted) - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6)).item()
            for (name, wanted), value in zip(expected.items(), got, strict=True)
        }
        worst = max(differences, key=differences.__getitem__)
        if not differences[worst] <= TOLERANCE:
            raise Flow3rError(
                f"{path}: not written, since the graph's {worst} differs from the model's by {differences[worst]:.2g} "
                f"of its largest value, expected at most {TOLERANCE:g}"
            )
        for written in sorted(Path(folder).iterdir(), key=lambda written: written == file):  # the graph itself last
            written.replace(path.parent / written.name)
    return differences
