"""The sets of worlds of the controlled experiments: finite, fixed, nested, and apart from each other (paper 4.1, A.2).

A world of a set is a short sequence: FRAMES frames of one camera path, among objects that move at times of their own.
It is named by its set and its number, and a hash of that name is its seed, so that the first hundred of four hundred
are the hundred, and that no set shares a world with another, with training on endless worlds, or with evaluation.
Sizes and the two looks are ours, a tenth of the paper's numbers of sequences.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.worlds import Worlds, render_worlds
from flow3r.errors import InputError

FRAMES = 12  # of a sequence
SIDE = 112  # pixels of its square frames, as the paper's ablations are square; 8 x 8 patches of 14
FIRST_SEED = 2**62  # worlds of sets have seeds from here on, below 2^63; training and evaluation stay below 2^61

# The look that labels are had of and tests are made in: blobs in vivid colours, medium lenses, mostly rooms.
_FAMILIAR = WorldsConfig(
    fov_degrees=(50.0, 80.0),
    rotation_degrees=(45.0, 120.0),  # between the first frame and the last
    overlap=0.4,  # of neighbouring frames
    outdoor_share=0.25,
    patterns=(0, 1, 2, 3, 4, 5),
    details=(0, 1, 2, 3, 9, 11),
    texture=0.4,  # coarse and distinctive enough for matching to be learnt in some thousand steps
)
# Another look, as of footage from elsewhere: clouded and repetitive surfaces, long lenses, less turning, open grounds.
_OTHER = replace(
    _FAMILIAR,
    fov_degrees=(32.0, 52.0),
    rotation_degrees=(25.0, 90.0),
    outdoor_share=0.6,
    patterns=(6, 7, 8),
    details=(4, 5, 6, 7, 8, 10),
    texture=0.7,
)
DOMAINS = {
    "static": replace(_FAMILIAR, moving_share=0.0),
    "dynamic": replace(_FAMILIAR, moving_share=1.0),
    "elsewhere": replace(_OTHER, moving_share=1.0),
}

Split = Literal["labelled", "unlabelled", "validation", "test"]


@dataclass(frozen=True)
class WorldSet:
    """The worlds 0 ... `count` - 1 of a split of a domain: what lies in them depends on their numbers, not on `count`.

    Raises InputError for a domain that there is not, or a count below one.
    """

    domain: str
    split: Split
    count: int

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS or self.count < 1:
            raise InputError(
                f"{self.count} worlds of domain {self.domain!r}; expected at least one of {', '.join(DOMAINS)}"
            )

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.split}"

    def name_of(self, number: int) -> str:
        """The name of a world, of which its seed is a hash. Raises InputError for a number outside the set."""
        if not 0 <= number < self.count:
            raise InputError(f"{self.name} has worlds 0..{self.count - 1}; got {number}")
        return f"{self.name}/{number}"

    def seed(self, number: int) -> int:
        """Of a world: FIRST_SEED and the first 62 bits of the SHA-256 of its name."""
        return FIRST_SEED + (int.from_bytes(hashlib.sha256(self.name_of(number).encode()).digest()[:8], "big") >> 2)

    def render(
        self,
        numbers: Sequence[int],
        frames: Int[Tensor, "B n"],
        pairs: Int[Tensor, "B P 2"] | None = None,
        *,
        side: int = SIDE,
        device: torch.device | str = "cpu",
    ) -> Worlds:
        """Some frames of these worlds with all labels; flow, which includes the objects' own motion, for ordered pairs
        of them (positions in `frames`), and names. The cameras are those of SIDE at every `side`, but for rounding."""
        worlds = render_worlds(
            [self.seed(number) for number in numbers],
            FRAMES,
            (side, side),
            config=DOMAINS[self.domain],
            frames=frames,
            pairs=pairs,
            device=device,
        )
        return replace(worlds, views=replace(worlds.views, names=self.names_of(numbers, frames)))

    def names_of(self, numbers: Sequence[int], frames: Int[Tensor, "B n"]) -> tuple[tuple[str, ...], ...]:
        """What frames of these worlds are called, as in `Views`."""
        return tuple(tuple(f"{self.name_of(k)} {t}" for t in times) for k, times in zip(numbers, frames.tolist()))


@dataclass(frozen=True)
class Regime:
    """What a controlled experiment learns from and is measured on; validation chooses weights, the test is final."""

    labelled: WorldSet
    unlabelled: WorldSet
    validation: WorldSet
    test: WorldSet


def _regime(labelled: str, unlabelled: str, test: str, counts: tuple[int, int] = (100, 300)) -> Regime:
    return Regime(
        WorldSet(labelled, "labelled", counts[0]),
        WorldSet(unlabelled, "unlabelled", counts[1]),
        WorldSet(test, "validation", 100),
        WorldSet(test, "test", 500),
    )


# Paper 4.1: ScanNet++ 1K + 1K; OmniWorld 1K + SpatialVID 3K, 10K, 20K, and OmniWorld 4K. `transfer` is ours.
REGIMES = {
    "static": _regime("static", "static", "static", (100, 100)),
    "dynamic": _regime("dynamic", "elsewhere", "dynamic"),
    "dynamic-10": _regime("dynamic", "elsewhere", "dynamic", (100, 1000)),
    "dynamic-20": _regime("dynamic", "elsewhere", "dynamic", (100, 2000)),
    "dynamic-4x-labelled": _regime("dynamic", "elsewhere", "dynamic", (400, 300)),
    "transfer": _regime("static", "dynamic", "dynamic"),
}
