"""What a model that starts from nothing learns first: which patch of one image is which of another."""

from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import MatcherConfig
from flow3r.model.initial import initialise_trunk
from flow3r.model.inputs import check_call
from flow3r.model.multiview import MultiViewTransformer
from flow3r.model.vggt import imagenet_statistics
from flow3r.nn.dinov2 import DinoV2
from flow3r.nn.memory import WHOLE, Memory
from flow3r.types import Flow, Prediction


class Matcher(nn.Module):
    """An encoder and a multi-view transformer under the smallest readout of flow that has the form of Eq. 6.

    A dense head is slow to learn on a trunk that does not match yet, and takes its start apart meanwhile; a trunk that
    matches is a good start for all heads. The readout maps a patch of i, beside the mean of those of j, to a
    displacement; it is dropped when a model is started from these weights.
    """

    def __init__(self, config: MatcherConfig):
        super().__init__()
        self.config = config
        self.memory: Memory = WHOLE
        self.encoder = DinoV2(config.encoder)
        self.multiview = MultiViewTransformer(config.encoder.width, config.multiview)
        initialise_trunk(self.encoder, self.multiview)
        width = 2 * config.multiview.width
        self.readout = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2))
        nn.init.trunc_normal_(self.readout[-1].weight, std=1e-3)  # no flow at the start
        nn.init.zeros_(self.readout[-1].bias)

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        pairs: Int[Tensor, "B P 2"],
        *,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        outputs: Collection[str] = (),
    ) -> Prediction:
        """Flow of the ordered pairs (source, target), smooth between the centres of patches, and nothing else.

        Raises ValueError for images or pairs that do not fit, and for any `outputs`.
        """
        check_call(images, pairs, outputs, intrinsics, self.config, self.readout[-1].weight)
        if outputs:
            raise ValueError(f"a matcher predicts flow alone; got outputs {', '.join(sorted(outputs))}")
        mean, std = imagenet_statistics(images.device)
        flat = ((images.flatten(0, 1) - mean) / std).to(self.encoder.dtype)
        patches = self.encoder(flat, self.memory).unflatten(0, images.shape[:2])
        levels = self.multiview(patches, (self.config.multiview.depth // 2 - 1,), self.memory)
        tokens = levels[0][:, :, self.multiview.specials :]
        scene = torch.arange(len(pairs), device=images.device)[:, None]
        source, target = tokens[scene, pairs[..., 0]], tokens.mean(2, keepdim=True)[scene, pairs[..., 1]]
        coarse = self.readout(torch.cat([source, target.expand_as(source)], dim=-1)).float()
        height, width = images.shape[-2:]
        patch = self.config.encoder.patch
        grid = coarse.flatten(0, 1).mT.unflatten(-1, (height // patch, width // patch))
        dense = F.interpolate(grid, (height, width), mode="bilinear").movedim(1, -1)
        return Prediction(flow=Flow(pairs, dense.unflatten(0, pairs.shape[:2]) * max(height, width) / 2, None))
