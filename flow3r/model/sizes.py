"""The sizes of a model: as JSON inside our files, and as the shapes of a public file tell them."""

import dataclasses
import json
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from flow3r.config import (
    BranchConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    FlowHeadConfig,
    MatcherConfig,
    ModelConfig,
    MultiViewConfig,
    TrackHeadConfig,
    VggtConfig,
)

Sizes = ModelConfig | VggtConfig | MatcherConfig
CONFIG_OF_FAMILY = {"flow3r": ModelConfig, "vggt": VggtConfig, "matcher": MatcherConfig}
# What a configuration says beyond the function of the weights that every program has in common.
NO_SIZES = (
    "tokens",
    "world_points",
    "encoder.mask_token",
    "multiview.first_view",
    "multiview.layer_scale",
    "multiview.rope_precision",
    "camera.layer_scale",
    "flow.pairs_per_chunk",
)
# What the shapes of a public file do not tell.
UNTOLD = ("levels", "camera.heads", "track.corr_levels", "track.corr_radius", "track.stride", "track.heads")
PUBLIC_LEVELS, PUBLIC_PAIRS = (4, 11, 17, 23), 24  # VGGT: pairs of blocks that its dense heads read, and their number


def config_as_json(config: Sizes) -> str:
    """The sizes as JSON, with the family of the model that they are of."""
    return json.dumps({"family": family_of(config), **dataclasses.asdict(config)})


def family_of(config: Sizes) -> str:
    """The name of the family of models that sizes are of."""
    return next(name for name, kind in CONFIG_OF_FAMILY.items() if type(config) is kind)


def config_from_json(text: str) -> Sizes:
    """What `config_as_json` wrote; a file from before there were families is of the first.

    Fields that were not there yet have their defaults. Raises ValueError for anything else that is not as written.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected an object, got {type(values).__name__}")
    family = values.pop("family", "flow3r")
    if family not in CONFIG_OF_FAMILY:
        raise ValueError(f"unknown family {family!r}, expected one of {', '.join(CONFIG_OF_FAMILY)}")
    return dataclass_from(CONFIG_OF_FAMILY[family], values)


def dataclass_from(kind: type, values: Any, where: str = "") -> Any:
    """A dataclass from the plain values that `dataclasses.asdict` and JSON make of it, with those within.

    Raises ValueError that names keys which it does not have, keys without default that lack, and wrong values.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where.rstrip('.') or kind.__name__}: expected an object, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(where + key for key in unknown)}")
    hints = get_type_hints(kind)
    try:
        return kind(**{key: _value(hints[key], value, where + key) for key, value in values.items()})
    except TypeError as error:
        raise ValueError(f"{where.rstrip('.') or kind.__name__}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        (hint,) = (option for option in options if option is not type(None))
        return _value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return dataclass_from(hint, value, where + ".")
    if origin is Literal:
        fits = value in options
    elif origin is tuple:
        fits = isinstance(value, list | tuple) and (Ellipsis in options or len(value) == len(options))
        if fits:
            kinds = (options[0],) * len(value) if Ellipsis in options else options
            return tuple(_value(kind, part, where) for kind, part in zip(kinds, value, strict=True))
    elif hint is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = type(value) is hint
    if not fits:
        raise ValueError(f"{where} is {value!r}, expected {hint if origin else hint.__name__}")
    return value


def config_from_shapes(family: str, tensors: Mapping[str, Tensor]) -> Sizes:
    """The sizes of a public model of a family, from the shapes of its tensors under our names.

    Heads follow from the width of a head, which the query norm reveals and all parts share. Of VGGT, shapes do not tell
    the heads of the camera head, taken to be as many as the trunk's, nor the levels of the dense heads, taken at the
    public model's shares of the depth, nor the tracker's radius, stride, heads and iterations, taken as public. Raises
    KeyError or ValueError where a tensor that tells a size lacks or has no such shape.
    """
    return {"flow3r": _flow3r_sizes, "vggt": _vggt_sizes}[family](tensors)


def _flow3r_sizes(tensors: Mapping[str, Tensor]) -> ModelConfig:
    width, head, registers = _trunk(tensors)
    branch_width = tensors["point_branch.project_in.weight"].shape[0]
    return ModelConfig(
        _encoder(tensors, head),
        MultiViewConfig(
            width=width, depth=_count(tensors, "multiview.blocks."), heads=width // head, registers=registers
        ),
        BranchConfig(
            width=branch_width,
            depth=_count(tensors, "point_branch.blocks."),
            heads=branch_width // head,
            camera_width=tensors["camera_branch.project_out.weight"].shape[0],
        ),
        _flow_head(tensors),
    )


def _vggt_sizes(tensors: Mapping[str, Tensor]) -> VggtConfig:
    width, head, registers = _trunk(tensors)
    depth = _count(tensors, "multiview.blocks.")
    encoder = _encoder(tensors, head)
    return VggtConfig(
        dataclasses.replace(encoder, mask_token="encoder.mask_token" in tensors),
        dataclasses.replace(
            VggtConfig().multiview,
            width=width,
            depth=depth,
            heads=width // head,
            registers=registers,
            camera_tokens=tensors["multiview.camera_tokens"].shape[2],
            first_view=tensors["multiview.camera_tokens"].shape[1] == 2,
        ),
        levels=tuple(-(-(level + 1) * (depth // 2) // PUBLIC_PAIRS) - 1 for level in PUBLIC_LEVELS),
        camera=CameraHeadConfig(depth=_count(tensors, "camera_head.trunk."), heads=width // head),
        dense=DenseHeadConfig(
            features=tensors["depth_head.dpt.neck.weight"].shape[1],
            level_channels=_level_channels(tensors, "depth_head.dpt"),
            output_channels=tensors["depth_head.dpt.head.weight"].shape[0],
        ),
        track=_track_head(tensors),
    )


def _track_head(tensors: Mapping[str, Tensor]) -> TrackHeadConfig | None:
    if not any(key.startswith("track_head.") for key in tensors):
        return None
    public = TrackHeadConfig()
    hidden, scores = tensors["track_head.tracker.correlation.0.weight"].shape
    return TrackHeadConfig(
        features=tensors["track_head.dpt.neck.weight"].shape[1],
        level_channels=_level_channels(tensors, "track_head.dpt"),
        corr_levels=scores // (2 * public.corr_radius + 1) ** 2,
        hidden=hidden,
        depth=_count(tensors, "track_head.tracker.updater.time_blocks."),
        virtual_tracks=tensors["track_head.tracker.updater.virtual_tracks"].shape[1],
    )


def _trunk(tensors: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width of the multi-view transformer, of one of its heads, and its number of registers."""
    *_, registers, width = tensors["multiview.register_tokens"].shape
    (head,) = tensors["multiview.blocks.0.attention.q_norm.weight"].shape
    return width, head, registers


def _encoder(tensors: Mapping[str, Tensor], head: int) -> EncoderConfig:
    width, _, patch, _ = tensors["encoder.patch_embed.weight"].shape
    return EncoderConfig(
        width=width,
        depth=_count(tensors, "encoder.blocks."),
        heads=width // head,
        patch=patch,
        position_grid=round((tensors["encoder.position_table"].shape[1] - 1) ** 0.5),
        registers=tensors["encoder.register_tokens"].shape[1],
    )


def _flow_head(tensors: Mapping[str, Tensor]) -> FlowHeadConfig | None:
    if not any(key.startswith("flow_head.") for key in tensors):
        return None
    return FlowHeadConfig(
        features=tensors["flow_head.dpt.neck.weight"].shape[1],
        level_channels=_level_channels(tensors, "flow_head.dpt"),
        output_channels=tensors["flow_head.dpt.head.weight"].shape[0],
    )


def _level_channels(tensors: Mapping[str, Tensor], dpt: str) -> tuple[int, int, int, int]:
    return tuple(tensors[f"{dpt}.projects.{k}.weight"].shape[0] for k in range(4))


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of blocks under a prefix, one more than the highest, so that one amid them is missed."""
    return 1 + max((int(key[len(prefix) :].split(".")[0]) for key in tensors if key.startswith(prefix)), default=-1)


def differing_sizes(first: Sizes, second: Sizes, ignored: tuple[str, ...] = NO_SIZES) -> list[str]:
    """How two configurations differ, in words, but for the fields `ignored` and heads that only one of them has."""
    if type(first) is not type(second):
        return [f"{type(first).__name__} for {type(second).__name__}"]
    one, other = (_flat(dataclasses.asdict(config)) for config in (first, second))
    both = {part for part in ("flow", "track") if getattr(first, part, None) and getattr(second, part, None)}
    return [
        f"{key} {one.get(key)} for {other.get(key)}"
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
        and key not in ignored
        and (key.split(".")[0] not in ("flow", "track") or key.split(".")[0] in both)
    ]


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {where + key: value}
    return flat
