"""Names of the public Flow3r checkpoint from ours: written from its description, apart from the code that reads it.

And small models of public form: public layouts say nothing of heads, which follow from a head width that all parts
share; and have no key for a projection between encoder and multi-view transformer, so that both are of one width.
"""

import dataclasses
import re

from tiny_model import TINY, TINY_REFERENCE

from flow3r.config import CameraHeadConfig, FlowHeadConfig, ModelConfig, TrackHeadConfig, VggtConfig

PUBLIC = ModelConfig(
    dataclasses.replace(TINY.encoder, width=32, heads=4),
    dataclasses.replace(TINY.multiview, heads=4),
    dataclasses.replace(TINY.branch, heads=5),
    FlowHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4),
)
PUBLIC_VGGT = VggtConfig(
    dataclasses.replace(PUBLIC.encoder, mask_token=True),
    dataclasses.replace(TINY_REFERENCE.multiview, heads=4),
    levels=(0, 1, 2, 3),
    camera=CameraHeadConfig(depth=1, heads=4),
    dense=TINY_REFERENCE.dense,
    track=TrackHeadConfig(
        features=16, level_channels=(8, 12, 16, 16), corr_levels=2, hidden=16, depth=1, virtual_tracks=3
    ),
)

# Our key -> public key, in order: the inverse of the map that reads checkpoints, written from the public layout.
INVERSE = (
    (r"^multiview\.register_tokens$", "register_token"),
    (r"^multiview\.blocks\.", "decoder."),
    (r"^encoder\.class_token$", "encoder.cls_token"),
    (r"^encoder\.position_table$", "encoder.pos_embed"),
    (r"^encoder\.patch_embed\.", "encoder.patch_embed.proj."),
    (r"^confidence_", "conf_"),
    (r"^(point|conf|camera)_branch\.", r"\1_decoder."),
    (r"\.project_in\.", ".projects."),
    (r"\.project_out\.", ".linear_out."),
    (r"\.attention\.", ".attn."),
    (r"\.scale([12])\.", r".ls\1."),
    (
        r"^camera_head\.residuals\.(\d)\.layers\.(\d)\.",
        lambda m: f"camera_head.res_conv.{m[1]}.res_conv{int(m[2]) + 1}.",
    ),
    (r"^camera_head\.mlp\.", "camera_head.more_mlps."),
    (r"^camera_head\.translation\.", "camera_head.fc_t."),
    (r"^camera_head\.rotation\.", "camera_head.fc_rot."),
    (r"^flow_head\.mlp\.(\d)\.", lambda m: f"flow_head.mlp.{2 * int(m[1])}."),
    (r"^flow_head\.dpt\.projects\.", "flow_head.projects."),
    (r"^flow_head\.dpt\.resize\.", "flow_head.resize_layers."),
    (r"^flow_head\.dpt\.neck\.", "flow_head.scratch.output_conv1."),
    (r"^flow_head\.dpt\.head\.", "flow_head.scratch.output_conv2.0."),
    (r"^flow_head\.dpt\.last\.", "flow_head.scratch.output_conv2.2."),
    (r"^flow_head\.dpt\.reduce\.(\d)\.", lambda m: f"flow_head.scratch.layer{int(m[1]) + 1}_rn."),
    (r"^flow_head\.dpt\.fusions\.(\d)\.", lambda m: f"flow_head.scratch.refinenet{int(m[1]) + 1}."),
    (r"\.skip_unit\.", ".resConfUnit1."),
    (r"\.unit\.", ".resConfUnit2."),
)


def public_key(key: str) -> str:
    for pattern, replacement in INVERSE:
        key = re.sub(pattern, replacement, key)
    return key
