"""How flow on unlabelled clips and labels pull at the trunk: their gradients side by side, while a run learns."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from flow3r.data.mixture import Source, Weighted, iterate_batches, stream
from flow3r.losses.objective import OBJECTIVES
from flow3r.train.learner import Needs, needs_of, predict
from flow3r.train.measure import norms_and_cosine
from flow3r.train.run import Run, is_due
from flow3r.types import Views


class GradientProbe:
    """Compares two gradients at the same weights, at every `config.probe_every`-th step those before its update.

    One is of the flow term, with its weight, of an unlabelled batch; the other is of all that a labelled batch is held
    to, flow included where `config.data.labelled_flow` says so. Both are taken over the trunk: what learns of the
    encoder and the multi-view transformer. One of the two batches is the step's own (of several, the first). The other
    is what the run would have drawn in this step, had its kind been the other: as many scenes and views, of the same
    size. It is drawn and learnt from nowhere else, and nothing of the run depends on it.

    There is nothing to compare, and `measure` gives nothing, in a run without both kinds of steps, without a flow head
    or with a frozen trunk. Only of a run of one process.
    """

    def __init__(self, run: Run, clips: Source | Weighted | None, labelled: Source | Weighted | None):
        config, parts = run.config, (run.model.encoder, run.model.multiview)
        self.run, self.clips, self.labelled = run, clips, labelled
        self.trunk = [p for part in parts for p in part.parameters() if p.requires_grad]
        mixed = bool(clips) and 0 < config.data.unlabelled_share < 1
        self.every = config.probe_every if mixed and config.model.flow and self.trunk else 0

    def measure(self, views: Views, step: int) -> dict[str, float]:
        """Of the step with batch `views`, before its update: the norms `probe/flow` and `probe/labelled` of the two
        gradients, and `probe/cosine` between them. {} where the step is none to measure in, NaN where a prediction or
        a gradient is not finite.
        """
        if not is_due(step + 1, self.every):
            return {}
        other = self._other(views, step)
        labelled, unlabelled = (views, other) if views.labelled else (other, views)
        try:
            pulls = self._gradient(unlabelled, step, flow=True), self._gradient(labelled, step, flow=False)
            found = norms_and_cosine(*pulls)
        except torch.linalg.LinAlgError:  # the alignment of a prediction that is not
            found = (math.nan, math.nan, math.nan)
        return dict(zip(("probe/flow", "probe/labelled", "probe/cosine"), found, strict=True))

    def _other(self, views: Views, step: int) -> Views:
        """The batch that this step would have, were it of the other kind."""
        config = self.run.config
        data = replace(config.data, unlabelled_share=float(views.labelled), workers=0)
        batches = iterate_batches(
            replace(config, data=data), step, self.clips, views.images.device, labelled=self.labelled
        )
        return next(batches)

    def _gradient(self, views: Views, step: int, flow: bool) -> list[Tensor]:
        """Over the trunk, of a batch's flow term or of its whole objective, as the step itself would have it."""
        config, model = self.run.config, self.run.model
        needs = Needs(frozenset(), True) if flow else needs_of(views, config)
        prediction = predict(model, views, needs, config)
        held_to = Views(views.images, valid=views.valid, flow=views.flow) if flow else views
        seed = stream(config.seed, step, "loss").initial_seed()
        generator = torch.Generator(views.images.device).manual_seed(seed)
        total = OBJECTIVES[type(config.model)](prediction, held_to, config.loss, generator).total
        gradients = torch.autograd.grad(total, self.trunk, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.trunk, gradients, strict=True)]
