"""Random numbers that depend on a seed and a position alone, for many seeds at once, on any device."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(constant: int) -> int:
    """A 64-bit constant as the signed integer of the same bits."""
    return constant - 2**64 if constant >= 2**63 else constant


def _shifted(bits: Tensor, count: int) -> Tensor:
    """A logical right shift; that of torch keeps the sign."""
    return (bits >> count) & (2 ** (64 - count) - 1)


def mix(bits: Int[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits that looks random."""
    bits = (bits ^ _shifted(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shifted(bits, 27)) * _signed(_SECOND)
    return bits ^ _shifted(bits, 31)


class Draws:
    """A stream of draws for every one of B seeds, each the same whatever seeds stand beside it.

    A torch.Generator reads only the low 32 bits of its seed on a CPU and serves one seed at a time; here all 64 bits
    count, and one call draws for all seeds. `purpose` separates streams of the same seeds.
    """

    def __init__(self, seeds: Sequence[int], purpose: int = 0, device: torch.device | str = "cpu"):
        wrapped = [_signed(seed % 2**64) for seed in seeds]
        seeds_of_purpose = torch.tensor(wrapped, dtype=torch.int64, device=device) + purpose * _signed(_GOLDEN)
        self.state = mix(mix(seeds_of_purpose) + _signed(_GOLDEN))
        self.position = 1

    def unit(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Uniform in (0, 1)."""
        count = math.prod(shape)
        steps = torch.arange(self.position, self.position + count, device=self.state.device)
        self.position += count
        bits = mix(self.state[:, None] + steps * _signed(_GOLDEN))
        return ((_shifted(bits, 41).float() + 0.5) * 2.0**-23).view(-1, *shape)

    def uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "B *shape"]:
        """Uniform in (low, high)."""
        return low + (high - low) * self.unit(*shape)

    def log_uniform(self, low: float, high: float, *shape: int) -> Float[Tensor, "B *shape"]:
        """Uniform in the logarithm; `low` > 0."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def normal(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Standard normal."""
        return math.sqrt(2) * torch.erfinv(2 * self.unit(*shape) - 1)

    def integer(self, count: int, *shape: int) -> Int[Tensor, "B *shape"]:
        """Uniform in 0 ... count - 1."""
        return (count * self.unit(*shape)).long().clamp_max(count - 1)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with this probability."""
        return self.unit(*shape) < probability
