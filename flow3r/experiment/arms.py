"""The arms of the experiments as presets: each is another with one thing exchanged, and a run differs in that alone.

All arms of a family, a regime and a seed start from one base and take the same steps. Arms that learn flow from the
same unlabelled source draw the same scenes and pairs; no arm draws the batches of its base again.
"""

from dataclasses import dataclass, replace
from typing import Literal

from flow3r.config import FlowHeadConfig, TrainConfig, VggtConfig
from flow3r.errors import InputError
from flow3r.presets import EXPERIMENT_FLOW, PRESETS

Family = Literal["vggt", "pi3"]
FAMILIES: tuple[Family, ...] = ("vggt", "pi3")
MATCHING = "experiment-matching"  # the preset of what comes before the bases of both families
BASE = "base"  # the name of what all arms start from, which is measured as they are
FLOW_WEIGHTS = (0.3, 1.0, 3.0, 10.0)  # ours: tried for the flow loss, once for each kind of head and family
FORK = 1000  # added to a seed, so that the batches of an arm are not those that its base has seen
PROBE_EVERY = 50  # ours: steps between comparisons of the gradients of flow and labels

# Where the flow of unlabelled scenes comes from, and, of the last, pseudo 3D labels in its place (sources.py).
Unlabelled = Literal["exact", "noise1", "noise3", "wrong20", "teacher", "corrected", "pseudo"]


@dataclass(frozen=True)
class Arm:
    """What is learnt, and from what, beside the labelled set."""

    name: str
    head: FlowHeadConfig | None = None
    unlabelled: Unlabelled | None = None
    labelled_flow: bool = False  # flow of labelled scenes is learnt too
    alignment: Literal["separate", "shared"] = "separate"  # of the objective of VGGT's family
    exposures: bool = False  # as many labelled steps as an arm takes that shares its steps with unlabelled scenes

    def config(
        self, family: Family, *, steps: int, seed: int, flow_weight: float | None = None, init_from: str | None = None
    ) -> TrainConfig:
        """A run of this arm, of an arm's `steps`. Raises InputError for another alignment of a family without one."""
        start = PRESETS[f"experiment-{family}"]
        vggt = isinstance(start.model, VggtConfig)
        if self.alignment != "separate" and not vggt:
            raise InputError(f"{self.name} of family {family}: its objective has one alignment; take 'vggt'")
        loss = replace(start.loss, vggt=replace(start.loss.vggt, alignment=self.alignment)) if vggt else start.loss
        if flow_weight is not None:
            loss = replace(loss, flow=flow_weight)
        return replace(
            start,
            name=f"{start.name}-{self.name}",
            model=replace(start.model, flow=self.head),
            loss=loss,
            data=replace(start.data, labelled_flow=self.labelled_flow),
            steps=max(1, round(steps * (1 - start.data.unlabelled_share))) if self.exposures else steps,
            seed=seed if self.name == BASE else seed + FORK,
            init_from=init_from,
            probe_every=PROBE_EVERY if self.learns_flow_of_unlabelled else 0,
        )

    @property
    def learns_flow_of_unlabelled(self) -> bool:
        """Whether unlabelled scenes supervise its flow head."""
        return self.head is not None and self.unlabelled is not None


_3D_SUP = Arm("3d-sup")
_FACTORED = Arm("flow-factored", head=EXPERIMENT_FLOW, unlabelled="exact")
_FULL = replace(_FACTORED, name="full", labelled_flow=True)


def _head(name: str, **changed: object) -> Arm:
    return replace(_FACTORED, name=name, head=replace(EXPERIMENT_FLOW, **changed))


ARMS = {
    arm.name: arm
    for arm in (
        _3D_SUP,
        replace(_3D_SUP, name="3d-sup-exposures", exposures=True),
        replace(_3D_SUP, name="3d-sup-shared", alignment="shared"),
        replace(_3D_SUP, name="pseudo-3d", unlabelled="pseudo"),
        _FACTORED,
        _head("flow-projective", kind="projective"),
        _head("flow-tracking", kind="tracking"),
        _head("flow-projective+sceneflow", kind="projective+sceneflow"),
        _head("flow-factored-pose", target="pose"),
        _head("flow-factored-camera8", camera_width=8),
        _head("flow-factored-camera32", camera_width=32),
        replace(_FACTORED, name="flow-factored-shared", alignment="shared"),
        replace(_FACTORED, name="flow-factored-noise1", unlabelled="noise1"),
        replace(_FACTORED, name="flow-factored-noise3", unlabelled="noise3"),
        replace(_FACTORED, name="flow-factored-wrong20", unlabelled="wrong20"),
        replace(_FACTORED, name="flow-factored-teacher", unlabelled="teacher"),
        replace(_FACTORED, name="flow-factored-corrected", unlabelled="corrected"),
        _FULL,
        replace(_FULL, name="labelled-flow", unlabelled=None),
    )
}


def arm_called(name: str) -> Arm:
    """Raises InputError for a name that no arm has."""
    if name not in ARMS:
        raise InputError(f"no arm is called {name!r}; expected one of {', '.join(ARMS)}")
    return ARMS[name]
