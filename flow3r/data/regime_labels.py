"""A teacher's flow for the sequences of a set of worlds, made once, in a store that training reads as any other."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore, Refusal, Segment, SegmentInfo
from flow3r.data.mixture import Source, Wanted
from flow3r.data.regimes import DOMAINS, FRAMES, SIDE, WorldSet
from flow3r.data.sampling import label_pairs
from flow3r.data.transforms import resize_labels
from flow3r.data.worlds import RENDERER
from flow3r.errors import InputError
from flow3r.files import sha256_of_bytes
from flow3r.geometry.flow import median_length
from flow3r.types import Flow, Teacher, Views

_STRIDES = (0.04, 0.32)  # seconds at 25 frames a second: 1 to 8 frames, about as far as the embedded teacher reaches


def label_set(
    worlds: WorldSet, teacher: Teacher, folder: str | Path, *, pairs_per_frame: float = 2.0, finer: int = 2
) -> LabelStore:
    """A label store of a teacher's flow for the sequences of a set, one segment a world; what is there is kept.

    The teacher sees whole sequences, rendered `finer` times as fine as the stored frames, and is asked for
    `pairs_per_frame` pairs of every frame, both ways, 1 to 8 frames apart. A store of more worlds serves for fewer of
    the set: `LabelClips(store, only=source_names(...))`. Raises LabelStoreError if the folder holds labels of other
    settings.
    """
    made_with = {"teacher": teacher.name, "parameters": teacher.parameters, "set": worlds.name}
    made_with |= {"frames": FRAMES, "side": SIDE, "worlds": asdict(DOMAINS[worlds.domain])}
    made_with |= {"pairs_per_frame": pairs_per_frame, "finer": finer}
    made_with |= {"renderer": RENDERER} if RENDERER > 1 else {}  # stores of the first one do not tell it
    store = LabelStore(folder, json.loads(json.dumps(made_with)))
    for number in range(worlds.count):
        if store.find(worlds.name_of(number), _digest(worlds, number), range(FRAMES)) is None:
            store.write(_labelled(worlds, number, teacher, pairs_per_frame, finer))
    return store


def source_names(worlds: WorldSet) -> frozenset[str]:
    """What a label store calls the worlds of a set."""
    return frozenset(worlds.name_of(number) for number in range(worlds.count))


class CorrectedClips(Source):
    """The clips of a store of a set's labels as they are, but with exact flow: what the teacher's error alone costs.

    Frames, pairs and order are those that `clips` draws; covisible is what the teacher holds for so and is.
    """

    def __init__(self, worlds: WorldSet, clips: LabelClips):
        self.worlds, self.clips = worlds, clips

    def counts(self) -> Counter[str]:
        return self.clips.counts()

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        return self.clips.fit(wanted, generator)

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Raises InputError for a clip of another set, or of worlds beyond the set."""
        views = self.clips.draw(wanted, generator)
        if views.flow is None:
            return views
        numbers = [self._number(names[0]) for names in views.names]
        frames = torch.tensor([[int(name.split()[1]) for name in names] for names in views.names])
        exact = self.worlds.render(numbers, frames, views.flow.pairs, side=views.images.shape[-1]).views.flow
        covisible = views.flow.covisible * (exact.covisible > 0)
        return replace(views, flow=Flow(views.flow.pairs, exact.displacement, covisible))

    def _number(self, name: str) -> int:
        set_name, _, number = name.split()[0].rpartition("/")
        if set_name != self.worlds.name:
            raise InputError(f"a clip of {name}; expected the label store of {self.worlds.name}")
        return int(number)


def _digest(worlds: WorldSet, number: int) -> str:
    """What stands for the hash of a video's content: that of the world's name."""
    return sha256_of_bytes(worlds.name_of(number).encode())


def _labelled(worlds: WorldSet, number: int, teacher: Teacher, pairs_per_frame: float, finer: int) -> Segment:
    name, digest, every = worlds.name_of(number), _digest(worlds, number), torch.arange(FRAMES)[None]
    coarse, fine = (worlds.render([number], every, side=side).views for side in (SIDE, finer * SIDE))
    if not torch.allclose(coarse.world_from_camera, fine.world_from_camera, atol=1e-3):
        raise InputError(f"{name}: another path at {finer} times the size; choose another `finer`")
    times = np.arange(FRAMES, dtype=np.float64)
    pairs = label_pairs(times, strides=_STRIDES, pairs_per_frame=pairs_per_frame, seed=int(digest[:8], 16))
    answer = teacher(fine.images[0], torch.from_numpy(pairs))
    kept = [row for row, reason in enumerate(answer.refusals) if not reason]
    flow = answer.flow
    flow = resize_labels(Flow(flow.pairs[:, kept], flow.displacement[:, kept], flow.covisible[:, kept]), (SIDE, SIDE))
    refusals = tuple(Refusal(int(i), int(j), why) for (i, j), why in zip(pairs, answer.refusals) if why)
    images = (coarse.images[0].movedim(1, -1) * 255).round().byte().numpy()
    info = SegmentInfo(
        source=name,
        source_sha256=digest,
        shot=(0, FRAMES),
        indices=tuple(range(FRAMES)),
        timestamps=tuple(times.tolist()),
        names=coarse.names[0],
        original_sizes=((SIDE, SIDE),) * FRAMES,
        size=(SIDE, SIDE),
        model_from_original=(tuple(tuple(row) for row in np.eye(3).tolist()),) * FRAMES,
        pairs=tuple((i, j) for i, j in flow.pairs[0].tolist()),
        covisible_share=tuple(flow.covisible[0].mean((1, 2)).tolist()),
        median_flow=tuple(median_length(*pair) for pair in zip(flow.displacement[0], flow.covisible[0])),
        refusals=refusals,
    )
    return Segment(info, images if kept else images[:0], flow)
