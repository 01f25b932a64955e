"""Weights on disk: ours (safetensors with the sizes inside), and the public Flow3r layout by an explicit key map."""

import dataclasses
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flow3r.config import BranchConfig, EncoderConfig, FlowHeadConfig, ModelConfig, MultiViewConfig
from flow3r.errors import CheckpointError
from flow3r.files import atomic_path
from flow3r.model.flow3r import Flow3r

FORMAT = "flow3r-1"
PACKAGED = ("nano",)
OUR_MARK, PUBLIC_MARK = "multiview.register_tokens", "register_token"  # a key that only this layout has
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
HUB_FILES = ("model.safetensors", "flow3r.bin")  # ours; the public release

# Public key -> our key: every rule is applied once, in order, to the whole key.
PUBLIC_RULES: tuple[tuple[str, str], ...] = (
    (r"^register_token$", r"multiview.register_tokens"),
    (r"^encoder\.cls_token$", r"encoder.class_token"),
    (r"^encoder\.pos_embed$", r"encoder.position_table"),
    (r"^encoder\.patch_embed\.proj\.", r"encoder.patch_embed."),
    (r"^decoder\.", r"multiview.blocks."),
    (r"^(point|camera)_decoder\.", r"\1_branch."),
    (r"^conf_decoder\.", r"confidence_branch."),
    (r"^conf_head\.", r"confidence_head."),
    (r"_branch\.projects\.", r"_branch.project_in."),
    (r"_branch\.linear_out\.", r"_branch.project_out."),
    (r"\.attn\.", r".attention."),
    (r"\.ls([12])\.", r".scale\1."),
    (r"^camera_head\.res_conv\.(\d)\.res_conv1\.", r"camera_head.residuals.\1.layers.0."),
    (r"^camera_head\.res_conv\.(\d)\.res_conv2\.", r"camera_head.residuals.\1.layers.1."),
    (r"^camera_head\.res_conv\.(\d)\.res_conv3\.", r"camera_head.residuals.\1.layers.2."),
    (r"^camera_head\.more_mlps\.", r"camera_head.mlp."),
    (r"^camera_head\.fc_t\.", r"camera_head.translation."),
    (r"^camera_head\.fc_rot\.", r"camera_head.rotation."),
    (r"^flow_head\.mlp\.2\.", r"flow_head.mlp.1."),
    (r"^flow_head\.mlp\.4\.", r"flow_head.mlp.2."),
    (r"^flow_head\.projects\.", r"flow_head.dpt.projects."),
    (r"^flow_head\.resize_layers\.", r"flow_head.dpt.resize."),
    (r"^flow_head\.scratch\.output_conv1\.", r"flow_head.dpt.neck."),
    (r"^flow_head\.scratch\.output_conv2\.0\.", r"flow_head.dpt.head."),
    (r"^flow_head\.scratch\.output_conv2\.2\.", r"flow_head.dpt.last."),
    (r"^flow_head\.scratch\.layer1_rn\.", r"flow_head.dpt.reduce.0."),
    (r"^flow_head\.scratch\.layer2_rn\.", r"flow_head.dpt.reduce.1."),
    (r"^flow_head\.scratch\.layer3_rn\.", r"flow_head.dpt.reduce.2."),
    (r"^flow_head\.scratch\.layer4_rn\.", r"flow_head.dpt.reduce.3."),
    (r"^flow_head\.scratch\.refinenet1\.", r"flow_head.dpt.fusions.0."),
    (r"^flow_head\.scratch\.refinenet2\.", r"flow_head.dpt.fusions.1."),
    (r"^flow_head\.scratch\.refinenet3\.", r"flow_head.dpt.fusions.2."),
    (r"^flow_head\.scratch\.refinenet4\.", r"flow_head.dpt.fusions.3."),
    (r"\.resConfUnit1\.", r".skip_unit."),
    (r"\.resConfUnit2\.", r".unit."),
)


def load_model(name_or_path: str | Path = "nano", device: torch.device | str = "cpu") -> Flow3r:
    """A model in evaluation mode and fp32, from a packaged name ("nano"), a file, a folder, or a hub id "owner/name".

    Files are ours (safetensors) or of the public Flow3r layout (safetensors, or pickle opened with weights only); one
    without a flow head, as π³'s, gives a model without one. Raises CheckpointError for a file that is missing, damaged,
    unsafe, of another layout, or that holds NaN.
    """
    path = find_weights(name_or_path)
    tensors, metadata = read_tensors(path)
    if OUR_MARK in tensors:
        config = config_from_metadata(metadata, path)
    elif PUBLIC_MARK in tensors:
        tensors = {our_key(key): value for key, value in tensors.items()}
        config = config_from_shapes(tensors, path)
    else:
        first = ", ".join(sorted(tensors)[:3]) or "none"
        raise CheckpointError(
            f"{path}: of another layout (first keys: {first}); expected one of ours or the public Flow3r layout"
        )
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {key} holds NaN or infinity; the weights are damaged, fetch them again")
    try:
        with torch.device("meta"):
            model = Flow3r(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its sizes make no model ({error}); incomplete or damaged?") from error
    _check_keys(path, model.state_dict(), tensors)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return model.to(device).eval()


def save_model(model: Flow3r, path: str | Path, dtype: torch.dtype = torch.float32, notes: str = "") -> None:
    """Write weights and sizes as one safetensors file, atomically; `dtype` is that of the parameters in the file.

    `notes` are kept in its metadata, beside the configuration.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    for key, parameter in model.named_parameters():
        tensors[key] = parameter.detach().to("cpu", dtype).contiguous()
    metadata = {"format": FORMAT, "config": json.dumps(dataclasses.asdict(model.config)), "notes": notes}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def find_weights(name_or_path: str | Path) -> Path:
    """The file that a name, a path or a hub id stands for; only a hub id reaches for the network."""
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "model.safetensors"
    if path.is_file():
        return path
    name = str(name_or_path)
    if name in PACKAGED:
        packaged = resources.files("flow3r") / "weights" / f"{name}.safetensors"
        if packaged.is_file():
            return Path(str(packaged))
        raise CheckpointError(f"{name}: its weights are not in this installation; train them: flow3r train {name}")
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not path.parent.exists() and path.suffix not in SUFFIXES:
        return _from_hub(name)
    raise CheckpointError(
        f"{name}: no such file; expected a weight file, a folder with model.safetensors, a hub id like owner/name, "
        f"or one of {', '.join(PACKAGED)}"
    )


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"{name}: a hub id needs huggingface_hub; pip install huggingface_hub") from error
    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(name, file))
        except EntryNotFoundError:
            continue
        except Exception as error:  # the network, the repository, access: of many libraries' types
            raise CheckpointError(
                f"{name}: no such file here, and not fetched from the hub ({type(error).__name__}); give a local file"
            ) from error
    raise CheckpointError(f"{name}: the hub repository holds none of {', '.join(HUB_FILES)}; give a local file")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors or pickle file, and its metadata. Pickle is opened with weights only, or refused."""
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: not a weight file; expected one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError) as error:
        raise CheckpointError(f"{path}: damaged or not a weight file ({error}); fetch it again") from error
    except Exception as error:  # the unpickler refuses what is not plain tensors, in several exception types
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors or is damaged; expected a plain state dict or safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: expected a flat dict of tensors, got {type(loaded).__name__}")
    return dict(loaded), {}


def our_key(public_key: str) -> str:
    """Our name of a parameter of the public Flow3r layout."""
    for pattern, replacement in PUBLIC_RULES:
        public_key = re.sub(pattern, replacement, public_key)
    return public_key


def config_from_shapes(tensors: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """The sizes of a public-layout model, from the shapes of its tensors under our keys.

    Heads follow from the width of a head, which the query norm reveals and all parts share.
    """
    try:
        encoder_width, _, patch, _ = tensors["encoder.patch_embed.weight"].shape
        width = tensors["multiview.register_tokens"].shape[-1]
        branch_width = tensors["point_branch.project_in.weight"].shape[0]
        head = tensors["multiview.blocks.0.attention.q_norm.weight"].shape[0]
        flow = None
        if "flow_head.dpt.neck.weight" in tensors:
            flow = FlowHeadConfig(
                features=tensors["flow_head.dpt.neck.weight"].shape[1],
                level_channels=tuple(tensors[f"flow_head.dpt.projects.{k}.weight"].shape[0] for k in range(4)),
                output_channels=tensors["flow_head.dpt.head.weight"].shape[0],
            )
        return ModelConfig(
            EncoderConfig(
                width=encoder_width,
                depth=_count(tensors, "encoder.blocks."),
                heads=encoder_width // head,
                patch=patch,
                position_grid=round((tensors["encoder.position_table"].shape[1] - 1) ** 0.5),
                registers=tensors["encoder.register_tokens"].shape[1],
            ),
            MultiViewConfig(
                width=width,
                depth=_count(tensors, "multiview.blocks."),
                heads=width // head,
                registers=tensors["multiview.register_tokens"].shape[2],
            ),
            BranchConfig(
                width=branch_width,
                depth=_count(tensors, "point_branch.blocks."),
                heads=branch_width // head,
                camera_width=tensors["camera_branch.project_out.weight"].shape[0],
            ),
            flow,
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: not a complete public Flow3r file, missing or mis-shaped {error}") from error


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of blocks under a prefix, one more than the highest, so that one amid them is missed."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in tensors if key.startswith(prefix)), default=-1)


def config_from_metadata(metadata: Mapping[str, str], path: Path) -> ModelConfig:
    """The sizes that `save_model` wrote into the file's metadata."""

    def build(kind: type, values: Mapping[str, Any]) -> Any:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {metadata.get('format', 'unknown')!r}, expected {FORMAT!r} as written by save_model"
        )
    try:
        values = json.loads(metadata["config"])
        return ModelConfig(
            build(EncoderConfig, values["encoder"]),
            build(MultiViewConfig, values["multiview"]),
            build(BranchConfig, values["branch"]),
            build(FlowHeadConfig, values["flow"]) if values["flow"] else None,
            tuple(values["tokens"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its sizes are unreadable ({error}); written by another version?") from error


def _check_keys(path: Path, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    missing = sorted(set(expected) - set(got))
    unexpected = sorted(set(got) - set(expected))
    shared = sorted(set(expected) & set(got))
    misshaped = [
        f"{key} {tuple(got[key].shape)} for {tuple(expected[key].shape)}"
        for key in shared
        if got[key].shape != expected[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
    said = [f"{len(keys)} {kind} (first: {', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if said:
        raise CheckpointError(f"{path}: keys do not fit the model: {'; '.join(said)}")
