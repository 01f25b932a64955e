"""Weights on disk: models from files of every layout, ours back to disk, and starts of training from other models."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from flow3r.config import FlowHeadConfig, MatcherConfig, ModelConfig, VggtConfig
from flow3r.errors import CheckpointError
from flow3r.files import atomic_path, write_json
from flow3r.model.flow3r import Flow3r
from flow3r.model.matcher import Matcher
from flow3r.model.sizes import (
    NO_SIZES,
    UNTOLD,
    Sizes,
    config_as_json,
    config_from_json,
    config_from_shapes,
    differing_sizes,
)
from flow3r.model.sources import CONFIG_FILE, SUFFIXES, Source, check_keys, find_weights, read_source
from flow3r.model.vggt import Vggt
from flow3r.nn.rope import RopePrecision

__all__ = ["Start", "find_weights", "initialise_from", "load_encoder", "load_model", "save_model", "start_model"]

FORMAT = "flow3r-1"
Model = Flow3r | Vggt | Matcher
MODEL_OF = {ModelConfig: Flow3r, VggtConfig: Vggt, MatcherConfig: Matcher}
TRUNK = ("encoder.", "multiview.")  # what a model takes of a matcher
FRESH = ("flow_head.", "encoder.mask_token")  # what a start may lack
FLOW_HEAD = FlowHeadConfig()
DROPPED = ("track_head.", "encoder.mask_token")  # what it may have beyond the model


def load_model(
    name_or_path: str | Path = "nano",
    device: torch.device | str = "cpu",
    *,
    accept_license: bool = False,
    config: Sizes | None = None,
    rope_precision: RopePrecision | None = None,
) -> Model:
    """A model in evaluation mode and fp32, from a packaged name ("nano"), a file, a folder, or a hub id "owner/name".

    Files are ours, or of a public layout that their keys tell: Flow3r, π³ (a model without a flow head) or VGGT; as
    safetensors, or as pickle opened with weights only. `config`: the sizes, should the shapes in a public file not tell
    them. `rope_precision`: matters in bf16 alone, where "rounded" gives the numbers of the public Flow3r and π³ code,
    "float32" those of VGGT's. The licence of a known public checkpoint is shown before its first use, and must be
    accepted where it forbids commercial use. Raises CheckpointError for a file that is missing, damaged, unsafe, of
    another layout, whose keys do not fit, or that holds NaN.
    """
    source = read_source(name_or_path, accept_license)
    config = config or sizes_of(source)
    if isinstance(config, MatcherConfig):
        raise CheckpointError(
            f"{source.path}: a matcher, which predicts no geometry; start a model from it (init_from)"
        )
    if rope_precision is not None:
        multiview = dataclasses.replace(config.multiview, rope_precision=rope_precision)
        config = dataclasses.replace(config, multiview=multiview)
    model = empty_model(config, source.path)
    check_keys(source, model.state_dict(), source.tensors)
    model.load_state_dict({key: value.float() for key, value in source.tensors.items()}, assign=True)
    return model.to(device).eval()


def save_model(
    model: Model,
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    notes: str = "",
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write weights and sizes, atomically: a safetensors file with the sizes inside; where `path` is a folder or has no
    suffix, `model.safetensors` in it beside a readable `config.json`.

    `dtype` is that of the parameters in the file. `notes` are kept in its metadata, beside the configuration. `state`
    is written in place of the model's own, of a model that is held in parts. Raises CheckpointError for a file of
    another suffix: a pickle has no room for the sizes.
    """
    path = Path(path)
    folder = path.is_dir() or not path.suffix
    if not folder and path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a model is saved as .safetensors, which holds its sizes; or give a folder")
    state = model.state_dict() if state is None else state
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    for key, _ in model.named_parameters():
        tensors[key] = tensors[key].to(dtype)
    if folder:
        readable = {"format": FORMAT, "config": json.loads(config_as_json(model.config)), "notes": notes}
        write_json(path / CONFIG_FILE, readable)
        path = path / "model.safetensors"
    write_tensors(tensors, path, {**metadata_of(model.config), "notes": notes})


@dataclasses.dataclass(frozen=True)
class Start:
    """How a model was started from other weights: the keys that stayed as they were, and those that found no use."""

    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def start_model(
    name_or_path: str | Path, flow: FlowHeadConfig | None = FLOW_HEAD, *, accept_license: bool = False
) -> tuple[Model, Start]:
    """The paper's start: a public model's weights under a fresh flow head.

    π³ gives a Flow3r; VGGT a Flow3r-VGGT, in which no view is first and nothing is tracked.
    """
    source = read_source(name_or_path, accept_license)
    config = dataclasses.replace(sizes_of(source), flow=flow)
    if isinstance(config, VggtConfig):
        config = dataclasses.replace(
            config,
            encoder=dataclasses.replace(config.encoder, mask_token=False),
            multiview=dataclasses.replace(config.multiview, first_view=False),
            track=None,
        )
    model = MODEL_OF[type(config)](config)
    return model, _initialise_from(model, source)


def initialise_from(model: Model, name_or_path: str | Path, *, accept_license: bool = False) -> Start:
    """Copy weights into a model by key. A flow head may stay fresh, a track head be dropped; the rest must fit.

    Of a matcher, a model takes the trunk, all its heads staying fresh, and its camera tokens, if the matcher has none.
    Of a model whose first view has tokens of its own, one without takes those of the other views. Raises
    CheckpointError for other sizes, and as `load_model`.
    """
    return _initialise_from(model, read_source(name_or_path, accept_license))


def _initialise_from(model: Model, source: Source) -> Start:
    untold = UNTOLD if source.layout.family else ()
    sizes, wanted, tensors = sizes_of(source), model.config, source.tensors
    if isinstance(sizes, MatcherConfig) and not isinstance(wanted, MatcherConfig):
        wanted, untold = MatcherConfig(wanted.encoder, wanted.multiview, wanted.tokens), ("multiview.camera_tokens",)
        heads = {key: value for key, value in model.state_dict().items() if not key.startswith(TRUNK)}
        tokens = {key: value for key, value in model.state_dict().items() if key == "multiview.camera_tokens"}
        tensors = heads | tokens | {key: value for key, value in tensors.items() if key.startswith(TRUNK)}
    differing = differing_sizes(sizes, wanted, NO_SIZES + untold)
    if differing:
        raise CheckpointError(f"{source.path}: its sizes differ from the model's: {'; '.join(differing[:3])}")
    return _copy(model, source, tensors)


def load_encoder(model: Model, name_or_path: str | Path, *, accept_license: bool = False) -> Start:
    """Put a DINOv2 with registers (original, timm or transformers) into the encoder of a model.

    Raises CheckpointError for other files, one without registers among them, and where keys or shapes do not fit.
    """
    source = read_source(name_or_path, accept_license)
    if source.layout.family != "dinov2":
        raise CheckpointError(f"{source.path}: {source.layout.title}, expected a DINOv2 with registers")
    rest = {key: value for key, value in model.state_dict().items() if not key.startswith("encoder.")}
    return _copy(model, source, {**rest, **source.tensors})


def _copy(model: torch.nn.Module, source: Source, tensors: Mapping[str, Tensor]) -> Start:
    """Fill the model's state from tensors under our names, strict but for what may lack or be left over."""
    state = model.state_dict()
    lacking = [key for key in state if key not in tensors]
    fresh = tuple(
        key
        for prefix in FRESH
        for key in lacking
        if key.startswith(prefix) and not any(other.startswith(prefix) for other in tensors)  # whole parts alone
    )
    dropped = tuple(key for key in tensors if key not in state and key.startswith(DROPPED))
    used = {key: _of_other_views(value, state.get(key)) for key, value in tensors.items() if key not in dropped}
    check_keys(source, {key: value for key, value in state.items() if key not in fresh}, used)
    model.load_state_dict(used, strict=False)
    return Start(fresh, dropped)


def _of_other_views(value: Tensor, wanted: Tensor | None) -> Tensor:
    """Of tokens (1 2 n D), for the first view and for the others, the latter, where one kind (1 1 n D) is wanted."""
    one_of_two = wanted is not None and value.shape[:2] == (1, 2) and wanted.shape == (1, 1, *value.shape[2:])
    return value[:, 1:] if one_of_two else value


def sizes_of(source: Source) -> Sizes:
    """The configuration of the model in a file: as we wrote it, or from the shapes of a public layout."""
    if source.layout.family == "dinov2":
        raise CheckpointError(
            f"{source.path}: {source.layout.title} is an encoder, not a model; put it into one with load_encoder"
        )
    if source.layout.family is None:
        return _stored_config(source)
    try:
        return config_from_shapes(source.layout.family, source.tensors)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        lacks = source.names(error.args[0]) if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{source.path}: not a complete file of the layout {source.layout.name}, missing or mis-shaped: {lacks}"
        ) from error


def _stored_config(source: Source) -> Sizes:
    """From the file's metadata or, where a third program dropped that, from the `config.json` beside it."""
    written: Mapping[str, Any] = source.metadata
    beside = source.path.with_name(CONFIG_FILE)
    try:
        if "config" not in written and beside.is_file():
            stored = json.loads(beside.read_text(encoding="utf-8"))
            written = {**stored, "config": json.dumps(stored["config"])}
        if written.get("format") != FORMAT:
            raise CheckpointError(
                f"{source.path}: format {written.get('format', 'unknown')!r}, expected {FORMAT!r} as by save_model"
            )
        return config_from_json(written["config"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{source.path}: its sizes are unreadable ({error}); written by another version?"
        ) from error


def empty_model(config: Sizes, path: Path) -> Model:
    """A model without storage. Raises CheckpointError if its sizes, read from `path`, are impossible."""
    try:
        with torch.device("meta"):
            return MODEL_OF[type(config)](config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its sizes make no model ({error}); incomplete or damaged?") from error


def metadata_of(config: Sizes) -> dict[str, str]:
    """What a file of ours says of itself."""
    return {"format": FORMAT, "config": config_as_json(config)}


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write safetensors with metadata or, by suffix, a pickled state dict without, atomically."""
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: cannot be told by its name what to write; expected {', '.join(SUFFIXES)}")
    with atomic_path(path) as temporary:
        if path.suffix == ".safetensors":
            save_file(dict(tensors), temporary, dict(metadata))
        else:
            torch.save(dict(tensors), temporary)
