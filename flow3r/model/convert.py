"""One checkpoint from the names of one layout to those of another: the same bits, nothing lost unless asked for."""

import dataclasses
from pathlib import Path

from torch import Tensor

from flow3r.config import VggtConfig
from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import empty_model, metadata_of, sizes_of, write_tensors
from flow3r.model.layouts import LAYOUTS, Layout, LayoutName
from flow3r.model.licences import CHECKPOINTS
from flow3r.model.sizes import Sizes, config_from_shapes, differing_sizes, family_of
from flow3r.model.sources import Source, check_keys, read_source

SPARE = ("flow_head", "track_head", "encoder.mask_token")  # what a model is whole without


def convert(
    source: str | Path,
    target: str | Path,
    to: LayoutName = "ours",
    drop: tuple[str, ...] = (),
    *,
    accept_license: bool = False,
) -> Layout:
    """Write the weights of `source` (a file, folder, name or hub id) as the file `target` in the layout `to`.

    Tensors keep their type and every bit. `drop`: parts to leave out, by our names, such as "flow_head". Returns the
    layout that was read. Raises CheckpointError where anything else would be lost or lack, and as `load_model`.
    """
    found = read_source(source, accept_license)
    layout, target = LAYOUTS[to], Path(target)
    if target.exists() and target.samefile(found.path):
        raise CheckpointError(f"{target}: is the source itself; give another file to write")
    if layout.family is None and target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: our files hold their sizes, for which there is room in .safetensors alone")
    if found.layout.family == "dinov2":
        tensors, metadata = _encoder(found, layout, drop), {}
    else:
        tensors, metadata = _model(found, layout, drop)
    origin = found.metadata.get("origin") or (str(source) if str(source).lower() in CHECKPOINTS else None)
    write_tensors(tensors, target, metadata | ({"origin": origin} if origin else {}))
    return found.layout


def _model(found: Source, layout: Layout, drop: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a whole model in another layout, and what our layout says of it beside them."""
    config = sizes_of(found)
    check_keys(found, empty_model(config, found.path).state_dict(), found.tensors)
    if layout.family not in (None, "dinov2", family_of(config)):
        raise CheckpointError(
            f"{found.path}: a model of the family {family_of(config)}, the layout {layout.name} is of another"
        )
    tensors = _without(found, drop)
    for part in ("flow", "track"):
        if f"{part}_head" in drop:
            config = dataclasses.replace(config, **{part: None})
    if "encoder.mask_token" in drop:
        config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, mask_token=False))
    if layout.family != "dinov2":
        check_keys(found, empty_model(config, found.path).state_dict(), tensors)
    if layout.family is None:
        return tensors, metadata_of(config)
    named = _named(found, tensors, layout)
    if layout.family != "dinov2":
        _fits(found, config, named, layout)
    return named, {}


def _fits(found: Source, config: Sizes, named: dict[str, Tensor], layout: Layout) -> None:
    """Raise CheckpointError where the public program of a layout would not compute what this model does."""
    tensors = layout.to_ours(named)
    held = {"flow3r": ("flow_head",), "vggt": ("track_head", "encoder.mask_token")}.get(layout.name, ())
    lacking = [part for part in held if not any(f"{key}.".startswith(f"{part}.") for key in tensors)]
    if lacking:
        raise CheckpointError(f"{found.path}: has no {lacking[0]}, which a file of the layout {layout.name} holds")
    said = config_from_shapes(layout.family, tensors)
    differing = differing_sizes(config, said)
    if isinstance(config, VggtConfig) and not config.multiview.first_view:
        differing.append("multiview.first_view False for True")
    if differing:
        raise CheckpointError(
            f"{found.path}: a file of the layout {layout.name} cannot say that it has {'; '.join(differing[:3])}"
        )


def _encoder(found: Source, layout: Layout, drop: tuple[str, ...]) -> dict[str, Tensor]:
    if layout.family != "dinov2":
        raise CheckpointError(
            f"{found.path}: {found.layout.title} is an encoder, not a model; put it into one with load_encoder"
        )
    if found.unknown:
        raise CheckpointError(f"{found.path}: unexpected keys (first: {', '.join(found.unknown[:3])})")
    return _named(found, _without(found, drop), layout)


def _without(found: Source, drop: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors but for the parts that are dropped."""
    prefixes = tuple(f"{part}." for part in drop)
    idle = [part for part, prefix in zip(drop, prefixes) if not any(f"{k}.".startswith(prefix) for k in found.tensors)]
    if idle:
        parts = sorted({key.split(".")[0] for key in found.tensors})
        raise CheckpointError(f"{found.path}: has no part {', '.join(idle)} to drop; its parts are {', '.join(parts)}")
    return {key: value for key, value in found.tensors.items() if not f"{key}.".startswith(prefixes)}


def _named(found: Source, tensors: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The tensors under public names. Raises CheckpointError if one has none, and says what may be left out."""
    nameless = sorted(key for key in tensors if not layout.public_names(key))
    if not nameless:
        return layout.from_ours(tensors)
    parts = sorted({key if key.startswith("encoder.") else key.split(".")[0] for key in nameless})
    spare = layout.family == "dinov2" or all(part in SPARE for part in parts)
    raise CheckpointError(
        f"{found.path}: {len(nameless)} tensors would be lost (first: {', '.join(nameless[:3])}), since the layout "
        f"{layout.name} has no place for them" + (f"; leave them out with --drop {' '.join(parts)}" if spare else "")
    )
