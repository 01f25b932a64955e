"""How a model begins that starts from nothing: weights by which attention finds what looks alike, wherever it is.

Ours, for small models that have no pretrained encoder to start from: docs/models.md says what each choice brought.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.model.multiview import MultiViewTransformer
from flow3r.nn.block import Block
from flow3r.nn.dinov2 import DinoV2

_CALM = 0.5  # of the weights by which a block adds to its tokens


def initialise(part: nn.Module) -> None:
    """Start the linear layers of a part of a transformer: what comes out is about as large as what goes in.

    Queries and keys of a block that normalises them are equal: attention starts as likeness of content, from which
    matching across views is learnt.
    """
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear):
            calm = _CALM if name.endswith(("attention.proj", "mlp.fc2")) else 1.0
            nn.init.trunc_normal_(module.weight, std=calm * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    for module in part.modules():
        if isinstance(module, Block) and isinstance(module.attention.q_norm, nn.LayerNorm):
            query, key, _ = module.attention.qkv.weight.data.chunk(3)
            key.copy_(query)


def initialise_trunk(encoder: DinoV2, multiview: MultiViewTransformer) -> None:
    """Start an encoder and the transformer over all views as `initialise` does.

    Queries and keys of the encoder, and of the blocks that attend over all views, are equal and blind to where in its
    image a patch is: else attention across views starts at the same place instead of at what looks the same.
    """
    initialise(encoder)
    initialise(multiview)
    if encoder.position_table.is_meta:
        return
    places = encoder.position_table.detach()[0, 1:]
    _blind(encoder.blocks, places)
    _blind(multiview.blocks[1::2], multiview.projection(places).detach())


def _blind(blocks: Iterable[Block], places: Float[Tensor, "T D"]) -> None:
    """Equal queries and keys, orthogonal to what tokens differ in by their places."""
    _, sizes, directions = torch.linalg.svd(places - places.mean(0), full_matrices=False)
    directions = directions[sizes > 1e-3 * sizes[0]]
    for block in blocks:
        query, key, _ = block.attention.qkv.weight.data.chunk(3)
        query.sub_(query @ directions.mT @ directions)
        key.copy_(query)
