"""The names of parameters in files: ours, and those of public checkpoints, as one table each that is read both ways.

A rule is a pair (public name, our name). A word in braces stands for a number: `{k}`, or a formula of it such as
`{2k+1}`; a star at the end for the rest of the name. A tuple of public names is one tensor of ours, cut along its rows.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from flow3r.errors import CheckpointError

Names = str | tuple[str, ...]
Rules = tuple[tuple[Names, str], ...]
Family = Literal["flow3r", "vggt", "dinov2"]
LayoutName = Literal["ours", "flow3r", "pi3", "vggt", "dinov2", "dinov2-timm", "dinov2-transformers"]


def under(public: str, ours: str, rules: Rules) -> Rules:
    """The rules of a part that stands under one prefix in public files, under another in ours."""
    return tuple(
        (public + names if isinstance(names, str) else tuple(public + name for name in names), ours + own)
        for names, own in rules
    )


def same(*names: str) -> Rules:
    """Names that are ours too."""
    return tuple((name, name) for name in names)


BLOCK: Rules = (*same("norm1.*", "norm2.*", "mlp.*"), ("attn.*", "attention.*"), ("ls{i}.*", "scale{i}.*"))

DINOV2_VIT: Rules = (
    ("cls_token", "class_token"),
    ("pos_embed", "position_table"),
    ("patch_embed.proj.*", "patch_embed.*"),
    *under("blocks.{k}.", "blocks.{k}.", BLOCK),
    *same("norm.*"),
)
DINOV2: Rules = (*same("register_tokens", "mask_token"), *DINOV2_VIT)
DINOV2_TIMM: Rules = (("reg_token", "register_tokens"), *DINOV2_VIT)
DINOV2_TRANSFORMERS: Rules = (
    ("embeddings.cls_token", "class_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.register_tokens", "register_tokens"),
    ("embeddings.position_embeddings", "position_table"),
    ("embeddings.patch_embeddings.projection.*", "patch_embed.*"),
    *under("encoder.layer.{k}.", "blocks.{k}.", same("norm1.*", "norm2.*", "mlp.*")),
    (
        tuple(f"encoder.layer.{{k}}.attention.attention.{part}.*" for part in ("query", "key", "value")),
        "blocks.{k}.attention.qkv.*",
    ),
    ("encoder.layer.{k}.attention.output.dense.*", "blocks.{k}.attention.proj.*"),
    ("encoder.layer.{k}.layer_scale{i}.lambda1", "blocks.{k}.scale{i}.gamma"),
    ("layernorm.*", "norm.*"),
)

DPT: Rules = (
    *same("projects.{k}.*"),
    ("resize_layers.{k}.*", "resize.{k}.*"),
    ("scratch.layer{k+1}_rn.*", "reduce.{k}.*"),
    ("scratch.refinenet{k+1}.resConfUnit1.*", "fusions.{k}.skip_unit.*"),
    ("scratch.refinenet{k+1}.resConfUnit2.*", "fusions.{k}.unit.*"),
    ("scratch.refinenet{k+1}.out_conv.*", "fusions.{k}.out_conv.*"),
    ("scratch.output_conv1.*", "neck.*"),
    ("scratch.output_conv2.0.*", "head.*"),
    ("scratch.output_conv2.2.*", "last.*"),
)

BRANCH: Rules = (
    ("projects.*", "project_in.*"),
    *under("blocks.{k}.", "blocks.{k}.", BLOCK),
    ("linear_out.*", "project_out.*"),
)
PI3: Rules = (
    ("register_token", "multiview.register_tokens"),
    *same("image_mean", "image_std"),
    *under("encoder.", "encoder.", DINOV2),
    *under("decoder.{k}.", "multiview.blocks.{k}.", BLOCK),
    *under("point_decoder.", "point_branch.", BRANCH),
    *under("conf_decoder.", "confidence_branch.", BRANCH),
    *under("camera_decoder.", "camera_branch.", BRANCH),
    *same("point_head.proj.*"),
    ("conf_head.proj.*", "confidence_head.proj.*"),
    ("camera_head.res_conv.{k}.res_conv{j+1}.*", "camera_head.residuals.{k}.layers.{j}.*"),
    ("camera_head.more_mlps.*", "camera_head.mlp.*"),
    ("camera_head.fc_t.*", "camera_head.translation.*"),
    ("camera_head.fc_rot.*", "camera_head.rotation.*"),
)
FLOW3R: Rules = (
    *PI3,
    ("flow_head.mlp.{2k}.*", "flow_head.mlp.{k}.*"),
    *same("flow_head.norm.*"),
    *under("flow_head.", "flow_head.dpt.", DPT),
)

DENSE_HEAD: Rules = (*same("norm.*"), *under("", "dpt.", DPT))
TRACK_ATTENTION: Rules = (("in_proj_weight", "qkv.weight"), ("in_proj_bias", "qkv.bias"), ("out_proj.*", "proj.*"))
TRACK_BLOCK: Rules = (*same("norm1.*", "norm2.*", "mlp.*"), *under("attn.", "attention.", TRACK_ATTENTION))
TRACK_CROSS_BLOCK: Rules = (
    *same("norm1.*", "norm_context.*", "norm2.*", "mlp.*"),
    *under("cross_attn.", "attention.", TRACK_ATTENTION),
)
TRACK_UPDATER: Rules = (
    ("virual_tracks", "virtual_tracks"),
    ("input_norm.*", "norm_in.*"),
    ("input_transform.*", "project_in.*"),
    *under("time_blocks.{k}.", "time_blocks.{k}.", TRACK_BLOCK),
    *under("space_virtual_blocks.{k}.", "virtual_blocks.{k}.", TRACK_BLOCK),
    *under("space_virtual2point_blocks.{k}.", "reading_blocks.{k}.", TRACK_CROSS_BLOCK),
    *under("space_point2virtual_blocks.{k}.", "telling_blocks.{k}.", TRACK_CROSS_BLOCK),
    ("output_norm.*", "norm_out.*"),
    ("flow_head.*", "project_out.*"),
)
TRACK_RULES: Rules = (
    *under("feature_extractor.", "", DENSE_HEAD),
    ("tracker.query_ref_token", "tracker.reference_tokens"),
    ("tracker.corr_mlp.fc1.*", "tracker.correlation.0.*"),
    ("tracker.corr_mlp.fc2.*", "tracker.correlation.2.*"),
    ("tracker.fmap_norm.*", "tracker.map_norm.*"),
    ("tracker.ffeat_norm.*", "tracker.feature_norm.*"),
    ("tracker.ffeat_updater.0.*", "tracker.feature_update.*"),
    ("tracker.vis_predictor.0.*", "tracker.visible.*"),
    ("tracker.conf_predictor.0.*", "tracker.confidence.*"),
    *under("tracker.updateformer.", "tracker.updater.", TRACK_UPDATER),
)
VGGT: Rules = (
    ("aggregator.camera_token", "multiview.camera_tokens"),
    ("aggregator.register_token", "multiview.register_tokens"),
    *under("aggregator.patch_embed.", "encoder.", DINOV2),
    *under("aggregator.frame_blocks.{k}.", "multiview.blocks.{2k}.", BLOCK),
    *under("aggregator.global_blocks.{k}.", "multiview.blocks.{2k+1}.", BLOCK),
    ("camera_head.empty_pose_tokens", "camera_head.empty_pose"),
    *under("camera_head.trunk.{k}.", "camera_head.trunk.{k}.", BLOCK),
    *same("camera_head.token_norm.*", "camera_head.trunk_norm.*", "camera_head.embed_pose.*"),
    ("camera_head.poseLN_modulation.1.*", "camera_head.modulation.*"),
    *same("camera_head.pose_branch.*"),
    *under("depth_head.", "depth_head.", DENSE_HEAD),
    *under("point_head.", "point_head.", DENSE_HEAD),
    *under("track_head.", "track_head.", TRACK_RULES),
)


@dataclass(frozen=True)
class Layout:
    """How a kind of file names the parameters of a family of models. `rules` is None where the names are ours."""

    name: LayoutName
    family: Family | None  # None: of both, told by the file's configuration
    rules: Rules | None
    title: str
    prefix: str = ""  # that some files put before every name

    def our_names(self, public: Iterable[str]) -> dict[str, tuple[str, int, int]]:
        """Of each public name that the layout knows: our name, which part of our tensor it is, and of how many."""
        return {key: found for key in public if (found := self._ours(key.removeprefix(self.prefix))) is not None}

    def public_names(self, ours: str) -> tuple[str, ...]:
        """The public names that one tensor of ours is stored under: one, several parts, or none."""
        if self.rules is None:
            return (ours,)
        for pattern, own, names in _from_ours(self.rules):
            if pattern.fullmatch(ours):
                found = tuple(renamed for part in names if (renamed := rename(ours, own, part)) is not None)
                if found:
                    return found
        return ()

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the layout knows, under our names; a tensor of ours of which a part lacks is left out."""
        found = self.our_names(tensors)
        parts: dict[str, dict[int, Tensor]] = {}
        for key, (ours, part, _) in found.items():
            parts.setdefault(ours, {})[part] = tensors[key]
        whole = {ours: count for ours, _, count in found.values() if len(parts[ours]) == count}
        own = {
            key: parts[key][0] if count == 1 else torch.cat([parts[key][part] for part in range(count)])
            for key, count in whole.items()
        }
        return _unfold_class_position(own) if self.name == "dinov2-timm" else own

    def from_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under public names. Raises CheckpointError for those that the layout has no name for."""
        named = {key: self.public_names(key) for key in tensors}
        nameless = sorted(key for key, names in named.items() if not names)
        if nameless:
            raise CheckpointError(
                f"the layout {self.name} ({self.title}) has no place for {len(nameless)} tensors "
                f"(first: {', '.join(nameless[:3])})"
            )
        if self.name == "dinov2-timm":
            tensors = _fold_class_position(tensors)
        public = {}
        for key, value in tensors.items():
            names = named[key]
            parts = (value,) if len(names) == 1 else value.chunk(len(names))
            public |= {name: part.clone() if len(names) > 1 else part for name, part in zip(names, parts, strict=True)}
        return public

    def _ours(self, key: str) -> tuple[str, int, int] | None:
        if self.rules is None:
            return key, 0, 1
        for pattern, part, own, index, count in _from_public(self.rules):
            if pattern.fullmatch(key) and (renamed := rename(key, part, own)) is not None:
                return renamed, index, count
        return None


LAYOUTS: dict[LayoutName, Layout] = {
    layout.name: layout
    for layout in (
        Layout("ours", None, None, "this package"),
        Layout("flow3r", "flow3r", FLOW3R, "the public Flow3r, flow3r.bin"),
        Layout("pi3", "flow3r", PI3, "π³"),
        Layout("vggt", "vggt", VGGT, "VGGT"),
        Layout("dinov2", "dinov2", under("", "encoder.", DINOV2), "DINOv2, original"),
        Layout("dinov2-timm", "dinov2", under("", "encoder.", DINOV2_TIMM), "DINOv2, timm"),
        Layout(
            "dinov2-transformers",
            "dinov2",
            under("", "encoder.", DINOV2_TRANSFORMERS),
            "DINOv2, transformers",
            prefix="dinov2_with_registers.",
        ),
    )
}


def recognise(keys: Iterable[str]) -> Layout:
    """The layout that names its parameters so. Raises CheckpointError for any other, and says which keys it saw."""
    keys = set(keys)
    bare = {key.removeprefix("dinov2_with_registers.") for key in keys}
    if "multiview.register_tokens" in keys:
        return LAYOUTS["ours"]
    if "register_token" in keys:
        return LAYOUTS["flow3r" if any(key.startswith("flow_head.") for key in keys) else "pi3"]
    if any(key.startswith("aggregator.") for key in keys):
        return LAYOUTS["vggt"]
    if "cls_token" in keys and "register_tokens" in keys:
        return LAYOUTS["dinov2"]
    if "cls_token" in keys and "reg_token" in keys:
        return LAYOUTS["dinov2-timm"]
    if "embeddings.register_tokens" in bare:
        return LAYOUTS["dinov2-transformers"]
    if {"cls_token", "embeddings.cls_token", "dinov2.embeddings.cls_token"} & keys:
        raise CheckpointError(
            "a vision transformer without registers; expected DINOv2 with four: dinov2_vitl14_reg4, "
            "timm/vit_large_patch14_reg4_dinov2.lvd142m or facebook/dinov2-with-registers-large"
        )
    first = ", ".join(sorted(keys)[:3]) or "none"
    raise CheckpointError(
        f"of another layout (first keys: {first}); expected one of "
        + ", ".join(f"{layout.name} ({layout.title})" for layout in LAYOUTS.values())
    )


def rename(key: str, source: str, target: str) -> str | None:
    """The name of `key` when a rule takes template `source` to template `target`; None if `key` is not of the first."""
    pattern, words = _pattern(source)
    found = pattern.fullmatch(key)
    if found is None:
        return None
    values: dict[str, int] = {}
    for (letter, scale, offset), number in zip(words, found.groups(), strict=False):
        value, remainder = divmod(int(number) - offset, scale)
        if remainder or value < 0 or str(int(number)) != number or values.setdefault(letter, value) != value:
            return None
    rest = found.groups()[-1] if source.endswith("*") else ""
    numbered = _WORD.sub(lambda word: str(int(word[1] or 1) * values[word[2]] + int(word[3] or 0)), target)
    return numbered.removesuffix("*") + rest


@lru_cache(maxsize=16)
def _from_public(rules: Rules) -> tuple[tuple[re.Pattern[str], str, str, int, int], ...]:
    """Rules by public name: its pattern, itself, our name, and which part of ours it is, of how many."""
    found = []
    for names, own in rules:
        parts = (names,) if isinstance(names, str) else names
        found += [(_pattern(part)[0], part, own, index, len(parts)) for index, part in enumerate(parts)]
    return tuple(found)


@lru_cache(maxsize=16)
def _from_ours(rules: Rules) -> tuple[tuple[re.Pattern[str], str, tuple[str, ...]], ...]:
    """Rules by our name: its pattern, itself, and the public names."""
    return tuple((_pattern(own)[0], own, (names,) if isinstance(names, str) else names) for names, own in rules)


_WORD = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}")


@lru_cache(maxsize=1024)
def _pattern(template: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    """A template as a regular expression, and (letter, scale, offset) of each of its numbers in order."""
    words = tuple((word[2], int(word[1] or 1), int(word[3] or 0)) for word in _WORD.finditer(template))
    literals = re.split(r"\{[^}]*\}", template.removesuffix("*"))
    expression = r"(\d+)".join(re.escape(literal) for literal in literals)
    return re.compile(expression + ("(.+)" if template.endswith("*") else "")), words


# timm gives DINOv2's registers no place in the position table, nor the class token, whose position it adds to the token
# (`_convert_dinov2` in timm/models/vision_transformer.py, models with no_embed_class). In ours the sum is formed in the
# forward pass, so that a class position of zero is the same model, to the bit.


def _unfold_class_position(own: dict[str, Tensor]) -> dict[str, Tensor]:
    table = own.get("encoder.position_table")
    if table is None or table.ndim != 3:
        return own
    return own | {"encoder.position_table": torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)}


def _fold_class_position(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    token, table = own["encoder.class_token"], own["encoder.position_table"]
    start = table[:, :1]
    folded = token + start if start.any() else token
    return {**own, "encoder.class_token": folded, "encoder.position_table": table[:, 1:].contiguous()}
