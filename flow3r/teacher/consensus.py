"""Several teachers heard together: flow where they agree, with the agreement as confidence, and nothing elsewhere.

The paper names its teacher's errors as its first limitation: what independent teachers agree on is less often wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.errors import InputError
from flow3r.types import Flow, FlowLabels, Teacher

VERSION = 1  # of the algorithm: raise it with every change of the labels


@dataclass(frozen=True)
class ConsensusTeacher:
    """A `Teacher` of at least two others.

    Of every pixel, those teachers vote that accept the pair and call the pixel covisible. The vote nearest to all
    others is the centre; those within `tolerance` of it are the agreed, and at least `quorum` must be. Their mean is
    the label; covisible is the least of theirs times exp(-d² / 2 t²), d the farthest agreed vote, t the tolerance.
    """

    name: ClassVar[str] = "consensus"

    teachers: tuple[Teacher, ...]
    quorum: int | None = None  # teachers; None: all
    tolerance: float = 0.005  # ours: of the long side, 1.7 pixels of 336
    least_agreement: float = 0.5  # ours: of the pixels on which enough vote, the share on which enough agree
    least_share: float = 0.1  # ours: of all pixels, the share that is labelled at all

    def __post_init__(self) -> None:
        if len(self.teachers) < 2 or not 2 <= self._quorum <= len(self.teachers):
            raise InputError(
                f"consensus of {len(self.teachers)} teachers with a quorum of {self._quorum}; expected at least two "
                "teachers, and a quorum from two to their number"
            )

    @property
    def _quorum(self) -> int:
        return len(self.teachers) if self.quorum is None else self.quorum

    @property
    def device(self) -> str:
        """That of the first teacher that has an accelerator, if any."""
        devices = [str(getattr(teacher, "device", None) or "cpu") for teacher in self.teachers]
        return next((device for device in devices if not device.startswith("cpu")), "cpu")

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting that changes the labels, the teachers' own among them."""
        return {
            "version": VERSION,
            "teachers": [[teacher.name, teacher.parameters] for teacher in self.teachers],
            "quorum": self._quorum,
            "tolerance": self.tolerance,
            "least_agreement": self.least_agreement,
            "least_share": self.least_share,
        }

    def __call__(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> FlowLabels:
        """Flow for ordered pairs of frames. Raises what the teachers raise."""
        labels = [teacher(images, pairs) for teacher in self.teachers]
        displacement, covisible, refusals = [], [], []
        for row in range(len(pairs)):
            flow, seen, reason = self._pair(labels, row)
            displacement.append(flow)
            covisible.append(seen)
            refusals.append(reason)
        empty = images.new_zeros(1, 0, *images.shape[2:], 2)
        flow = Flow(
            pairs[None].to(images.device),
            torch.stack(displacement)[None] if displacement else empty,
            torch.stack(covisible)[None] if covisible else empty[..., 0],
        )
        return FlowLabels(flow, tuple(refusals))

    def _pair(self, labels: Sequence[FlowLabels], row: int) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"], str]:
        """The label of a pair; zeros, and why, where it is refused."""
        heard = [label for label in labels if not label.refusals[row]]
        nothing = torch.zeros_like(labels[0].flow.displacement[0, row])
        if len(heard) < self._quorum:
            refused = {t.name: label.refusals[row] for t, label in zip(self.teachers, labels) if label.refusals[row]}
            first = next(iter(refused))
            return nothing, nothing[..., 0], f"refused by {first}: {refused[first]}"
        flows = torch.stack([label.flow.displacement[0, row] for label in heard])
        seen = torch.stack([label.flow.covisible[0, row] for label in heard])
        enough = (seen > 0).sum(0) >= self._quorum
        mean, covisible = agreement(flows, seen, self._quorum, self.tolerance * max(flows.shape[1:3]))
        voted, share = float(enough.float().mean()), float((covisible > 0).float().mean())
        if voted and share < self.least_agreement * voted:
            return nothing, nothing[..., 0], f"teachers disagree (agree on {share / voted:.0%})"
        if share < self.least_share:
            return nothing, nothing[..., 0], f"too little covisible ({share:.0%})"
        return mean, covisible, ""


def agreement(
    flows: Float[Tensor, "T H W 2"], covisible: Float[Tensor, "T H W"], quorum: int, tolerance: float
) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
    """The mean of those votes that lie within `tolerance` pixels of the vote nearest to all, and their confidence.

    Zeros where fewer than `quorum` do. A vote whose covisibility is 0 does not count.
    """
    votes = covisible > 0
    distance = (flows[:, None] - flows[None]).norm(dim=-1)
    counted = torch.where(votes[:, None] & votes[None], distance, 0.0)
    total = counted.clamp(max=2 * tolerance).sum(1)  # beyond that, all disagreement is alike
    total = total.masked_fill(~votes, torch.inf)
    centre = total.argmin(0)
    far = distance.gather(0, centre[None, None].expand(1, len(flows), -1, -1))[0]
    agreed = votes & (far <= tolerance)
    farthest = torch.where(agreed, far, 0.0).amax(0)
    least = torch.where(agreed, covisible, torch.inf).amin(0)
    enough = agreed.sum(0) >= quorum
    mean = (flows * agreed[..., None]).sum(0) / agreed.sum(0).clamp_min(1)[..., None]
    soft = least * torch.exp(-0.5 * (farthest / tolerance).square())
    return mean * enough[..., None], torch.where(enough, soft, 0.0)
