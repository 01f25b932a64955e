"""What the arms of a regime learn from: labelled worlds, kept on disk, and unlabelled ones as an arm sees them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flow3r.data.clips import LabelClips
from flow3r.data.kept_worlds import KeptSequences, KeptVideo, KeptWorlds, keep_worlds
from flow3r.data.mixture import Source, Weighted
from flow3r.data.regime_labels import CorrectedClips, label_set, source_names
from flow3r.data.regime_sources import Flaws, UnlabelledSequences
from flow3r.data.regimes import FRAMES, Regime, WorldSet
from flow3r.data.sampling import spread_indices
from flow3r.experiment.arms import Arm
from flow3r.teacher import teacher_called

if TYPE_CHECKING:
    from flow3r.data.pseudo_worlds import PseudoWorlds

VIEWS = 4  # of a world that is measured, evenly spread over its sequence: docs/experiments.md
SEEN = tuple(spread_indices(FRAMES, VIEWS))
TEACHER = "classical"  # the embedded one
MOST_KEPT = 300  # ours: worlds of an unlabelled set that are kept with all of their flow, 7 MB each
FLAWS = {"exact": Flaws(), "noise1": Flaws(noise=1.0), "noise3": Flaws(noise=3.0), "wrong20": Flaws(wrong=0.2)}


@dataclass(frozen=True)
class Stores:
    """Where sets of worlds, and a teacher's labels of them, lie below a folder that all runs of a schedule share."""

    folder: Path

    def learnt_from(self, worlds: WorldSet, flow: bool = False) -> KeptWorlds:
        """All frames of a set, and if wanted all of their flow; rendered now, unless they are there."""
        return keep_worlds(worlds, self._folder("worlds", worlds, "-flow" if flow else ""), flow=flow)

    def measured(self, worlds: WorldSet) -> KeptWorlds:
        """The four frames of a validation or a test set, with the flow of their twelve pairs."""
        return keep_worlds(worlds, self._folder("worlds", worlds), frames=SEEN, flow=True)

    def video(self, worlds: WorldSet, flaws: Flaws, device: torch.device | str) -> Source:
        """A set as unlabelled video: read from disk, or, if it is too large to be kept, rendered on `device`."""
        if worlds.count > MOST_KEPT:
            return UnlabelledSequences(worlds, flaws, device)
        return KeptVideo(self.learnt_from(worlds, flow=True), flaws)

    def taught(self, worlds: WorldSet) -> LabelClips:
        """The clips of an unlabelled set with the embedded teacher's flow; labelled now, unless they are."""
        store = label_set(worlds, teacher_called(TEACHER), self._folder("labels", worlds))
        return LabelClips(store, only=source_names(worlds))

    def solved(self, worlds: WorldSet) -> Source:
        """Scenes with the 3D labels that an optimiser finds in the embedded teacher's flow; solved now, unless they
        are. Needs pycolmap."""
        from flow3r.data.pseudo_worlds import PseudoSequences

        return PseudoSequences(self.pseudo(worlds))

    def pseudo(self, worlds: WorldSet) -> "PseudoWorlds":
        """The labels of `solved`, with what became of every world."""
        from flow3r.experiment.pseudo_labels import pseudo_label_set

        store = label_set(worlds, teacher_called(TEACHER), self._folder("labels", worlds))
        return pseudo_label_set(worlds, store, self._folder("pseudo", worlds))

    def _folder(self, kind: str, worlds: WorldSet, more: str = "") -> Path:
        return self.folder / kind / f"{worlds.domain}-{worlds.split}{more}"


def sources_of(
    arm: Arm, regime: Regime, stores: Stores, device: torch.device | str = "cpu"
) -> tuple[Source | Weighted, Source | None]:
    """The labelled and the unlabelled source of a run; `device` renders unlabelled worlds that are not kept."""
    labelled: Source = KeptSequences(stores.learnt_from(regime.labelled, flow=arm.labelled_flow))
    if arm.unlabelled is None:
        return labelled, None
    if arm.unlabelled == "pseudo":  # seen as often as the labelled set, as unlabelled scenes are by other arms
        return [(labelled, 1.0), (stores.solved(regime.unlabelled), 1.0)], None
    if arm.unlabelled in FLAWS:
        return labelled, stores.video(regime.unlabelled, FLAWS[arm.unlabelled], device)
    clips = stores.taught(regime.unlabelled)
    return labelled, CorrectedClips(regime.unlabelled, clips) if arm.unlabelled == "corrected" else clips
