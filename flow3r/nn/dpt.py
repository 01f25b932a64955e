"""DPT: four maps of tokens to one dense map (Ranftl et al. 2021, in the form of VGGT)."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.nn.precision import keep_full_precision

DPT_TOKENS = 8  # ours: what a DPT holds of a patch, in tokens of the transformer before it
POSITION_RATIO = 0.1  # VGGT: weight of the sine-cosine positions


class ResidualUnit(nn.Module):
    """relu(x) + conv2(relu(conv1(relu(x)))): the public model's first ReLU works in place, so the skip is relu(x)."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = F.relu(x)
        return x + self.conv2(F.relu(self.conv1(x)))


class Fusion(nn.Module):
    """Add a skip, refine, mix channels, upsample. The 1 x 1 mix comes before the upsampling, with which it commutes."""

    def __init__(self, features: int, with_skip: bool):
        super().__init__()
        self.skip_unit = ResidualUnit(features) if with_skip else None
        self.unit = ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c h w"] | None, size: tuple[int, int]
    ) -> Float[Tensor, "b c H W"]:
        if self.skip_unit is not None:
            x = x + self.skip_unit(skip)
        return F.interpolate(self.out_conv(self.unit(x)), size, mode="bilinear", align_corners=True)


class DptFeatures(nn.Module):
    """Four levels of token maps, shallow to deep, become features at 4x, 2x, 1x and 1/2 of the token grid, are fused
    from deep to shallow into one map at 8x, and brought to any size with `neck` channels.

    `positions`: sines and cosines of the places in the image are added to every level and to the result. Levels that
    come as views of channel-last tokens keep that layout in memory throughout.
    """

    def __init__(
        self,
        width: int,
        features: int,
        level_channels: tuple[int, int, int, int],
        neck: int,
        positions: bool = True,
    ):
        super().__init__()
        if positions and any(channels % 4 for channels in (neck, *level_channels)):
            raise ValueError(f"with positions, neck {neck} and level channels {level_channels} must be multiples of 4")
        self.positions = positions
        c0, c1, c2, c3 = level_channels
        self.projects = nn.ModuleList(nn.Conv2d(width, channels, 1) for channels in level_channels)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(c, features, 3, padding=1, bias=False) for c in (c0, c1, c2, c3))
        self.fusions = nn.ModuleList(Fusion(features, with_skip=level < 3) for level in range(4))
        self.neck = nn.Conv2d(features, neck, 3, padding=1)

    def forward(self, levels: tuple[Float[Tensor, "b D h w"], ...], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
        """The features at `size` (H, W), whose aspect is taken for that of the image."""
        aspect = size[1] / size[0]
        maps = []
        for level, project, resize, reduce in zip(levels, self.projects, self.resize, self.reduce, strict=True):
            maps.append(reduce(resize(self.placed(project(level), aspect))))
        x = self.fusions[3](maps[3], None, maps[2].shape[-2:])
        x = self.fusions[2](x, maps[2], maps[1].shape[-2:])
        x = self.fusions[1](x, maps[1], maps[0].shape[-2:])
        x = self.fusions[0](x, maps[0], (2 * maps[0].shape[-2], 2 * maps[0].shape[-1]))
        x = F.interpolate(self.neck(x), size, mode="bilinear", align_corners=True)
        return self.placed(x, aspect)

    def placed(self, x: Float[Tensor, "b c h w"], aspect: float) -> Float[Tensor, "b c h w"]:
        """The map with its positions, where they are wanted."""
        return _with_position(x, aspect) if self.positions else x


class Dpt(DptFeatures):
    """The features at full resolution, with positions, decoded to `outputs` channels without activation."""

    def __init__(self, width: int, features: int, level_channels: tuple[int, int, int, int], hidden: int, outputs: int):
        super().__init__(width, features, level_channels, features // 2)
        self.head = nn.Conv2d(features // 2, hidden, 3, padding=1)
        self.last = keep_full_precision(nn.Conv2d(hidden, outputs, 1))

    def forward(self, levels: tuple[Float[Tensor, "b D h w"], ...], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
        """The dense map at `size` (H, W), in fp32; all but the last layer obeys the ambient autocast."""
        x = F.relu(self.head(super().forward(levels, size)))
        with torch.autocast(x.device.type, enabled=False):
            return self.last(x.float())


def _with_position(x: Float[Tensor, "b c h w"], aspect: float) -> Float[Tensor, "b c h w"]:
    """Add the sines and cosines of the columns to the first half of the channels, those of the rows to the second."""
    quarter, (height, width) = x.shape[1] // 4, x.shape[-2:]
    diagonal = (aspect**2 + 1) ** 0.5
    columns = axis_positions(quarter, width, aspect / diagonal, x.device, x.dtype)[:, None, :]
    rows = axis_positions(quarter, height, 1 / diagonal, x.device, x.dtype)[:, :, None]
    return x + torch.cat([columns.expand(-1, height, -1), rows.expand(-1, -1, width)])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # a table first made in inference must serve training too
def axis_positions(
    quarter: int, length: int, span: float, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "half length"]:
    """Weighted sines, then cosines, at `quarter` frequencies of `length` positions evenly within [-span, span].

    The image is a rectangle of its own aspect inscribed in the unit circle; `span` is half of one of its sides.
    """
    frequency = 100.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    end = span * (length - 1) / length
    angle = frequency[:, None] * torch.linspace(-end, end, length, dtype=torch.float64)
    return (POSITION_RATIO * torch.cat([angle.sin(), angle.cos()])).to(device, dtype)
