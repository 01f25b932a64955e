"""The audit of a label store: is it whole, says every file what made it, and would the labels be made again?"""

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from flow3r.data import frame
from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.pair_index import INDEX, PairIndex
from flow3r.data.sampling import spread_indices
from flow3r.data.shards import read_shard
from flow3r.data.video import content_sha256, open_source
from flow3r.errors import Flow3rError, InputError, LabelStoreError
from flow3r.files import list_files, sha256_of_json
from flow3r.geometry.flow import forward_backward_error
from flow3r.teacher.label import LabelSettings, Source, label_source
from flow3r.types import Flow, Teacher

AGREEMENT = 0.8  # ours: least mean share of covisible pixels that the flow back leads home
NOTHING = "nothing to check"
NEAR = 0.125  # pixels: one step of the stored flow, where another machine rounds otherwise


@dataclass(frozen=True)
class Check:
    """One question about a store: of how many things it was asked, and what was found wrong."""

    name: str
    asked: int
    wrong: tuple[str, ...]
    value: str = ""


@dataclass(frozen=True)
class Audit:
    """The answers. `ok`: nothing is wrong."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return not any(check.wrong for check in self.checks)

    def table(self) -> Table:
        """For people: what was asked, of how many, how many were wrong, and the first of them."""
        table = Table("check", "asked", "wrong", "found")
        for check in self.checks:
            found = check.wrong[0] if check.wrong else check.value
            if not (check.asked or found):
                found = NOTHING
            table.add_row(check.name, str(check.asked), str(len(check.wrong)), found)
        return table


def audit(
    folder: str | Path,
    *,
    sample: int = 32,
    teacher: Teacher | None = None,
    sources: Sequence[Source] = (),
) -> Audit:
    """Audit a store: all of its headers, and the labels of `sample` segments that are spread over it.

    With `teacher` and `sources`, the sampled segments of these sources are labelled again, as the store says, and
    compared.
    Raises LabelStoreError if the folder is no store.
    """
    store = LabelStore(folder)
    checks = [_check_shards(store)]
    try:
        segments = store.segments()
    except LabelStoreError as error:
        return Audit((*checks, Check("headers are readable", 1, (str(error),))))
    labelled = [segment for segment in segments if segment.pairs]
    chosen = [labelled[k] for k in spread_indices(len(labelled), sample)] if labelled else []
    checks.append(Check("headers are readable", len(segments), (), f"{sum(len(s.pairs) for s in segments)} pairs"))
    checks.append(_check_index(store))
    checks.append(_each("made with what the manifest says", chosen, lambda s: _wrong_maker(store, s)))
    checks.append(_each("blocks are whole, numbers are those of the header", chosen, lambda s: _wrong_labels(store, s)))
    checks.append(_check_both_ways(store, chosen))
    if teacher is not None:
        checks.append(_check_again(store, chosen, teacher, sources))
    return Audit(tuple(checks))


def _each(name: str, segments: Iterable[SegmentInfo], wrong: Callable[[SegmentInfo], str]) -> Check:
    segments = tuple(segments)
    return Check(name, len(segments), tuple(answer for segment in segments if (answer := wrong(segment))))


def _check_shards(store: LabelStore) -> Check:
    """Every shard is readable; what could not be labelled is told."""
    wrong, failures, sources = [], 0, 0
    paths = list_files(store.folder, ".tar")
    for path in paths:
        try:
            report = read_shard(path).report
            failures += len(report["failures"])
            sources += len(report["sources"])
        except LabelStoreError as error:
            wrong.append(str(error))
    return Check("shards are readable", len(paths), tuple(wrong), f"{failures} of {sources} sources had failed")


def _check_index(store: LabelStore) -> Check:
    """The index, if there is one, has a row for every pair that is no copy of another's."""
    kept, copies = store.distinct()
    name, pairs = "the index has every pair once", sum(len(segment.pairs) for segment in kept)
    if not list_files(store.folder, INDEX):
        return Check(name, 0, (), "there is no index")
    try:
        rows = len(PairIndex.read(store.folder, ["row"]))
    except InputError as error:
        return Check(name, 0, (), str(error))
    except LabelStoreError as error:
        return Check(name, 1, (str(error),))
    left_out = f"{len(copies)} sources left out, copies of others" if copies else ""
    return Check(name, pairs, () if rows == pairs else (f"{rows} rows; write_pair_index() makes it again",), left_out)


def _wrong_maker(store: LabelStore, segment: SegmentInfo) -> str:
    try:
        made_with = store.made_with(segment)
    except LabelStoreError as error:
        return str(error)
    if sha256_of_json(made_with) == sha256_of_json(store.settings):
        return ""
    return f"{store.place_of(segment)}: says that it was made with other settings than the store's"


def _wrong_labels(store: LabelStore, segment: SegmentInfo) -> str:
    """Every block is read, and its statistics are made again."""
    try:
        store.images(segment, range(len(segment.indices)))
        flow = store.flow(segment, range(len(segment.pairs)))
    except LabelStoreError as error:
        return str(error)
    share = flow.covisible[0].mean((1, 2)).numpy()
    if np.abs(share - np.array(segment.covisible_share)).max() > 0.01:
        return f"{store.place_of(segment)}: covisible shares are not those of its header"
    length = [float(f.norm(dim=-1)[c > 0].median()) if c.any() else 0.0 for f, c in zip(*_of_scene(flow))]
    if np.abs(np.array(length) - np.array(segment.median_flow)).max() > 2 * NEAR:
        return f"{store.place_of(segment)}: median flows are not those of its header"
    return ""


def _of_scene(flow: Flow) -> tuple[torch.Tensor, torch.Tensor]:
    return flow.displacement[0], flow.covisible[0]


def _check_both_ways(store: LabelStore, segments: Sequence[SegmentInfo]) -> Check:
    """Where both directions of a pair are labelled, they lead back to where they began."""
    shares = []
    for segment in segments:
        row_of = {pair: row for row, pair in enumerate(segment.pairs)}
        both = [(row, row_of[j, i]) for (i, j), row in row_of.items() if i < j and (j, i) in row_of]
        for rows in both[:4]:
            try:
                (there, back), (seen, _) = _of_scene(store.flow(segment, rows))
            except LabelStoreError:
                continue  # told above
            error, inside = forward_backward_error(there[None], back[None])
            if (seen > 0).any():
                shares.append(float(((error < 1) & inside)[0][seen > 0].float().mean()))
    if not shares:
        return Check("forward and backward agree", 0, (), f"{NOTHING}: no pair is labelled both ways")
    mean = float(np.mean(shares))
    wrong = () if mean >= AGREEMENT else (f"{mean:.0%} of covisible pixels lead back; expected {AGREEMENT:.0%}",)
    return Check("forward and backward agree", len(shares), wrong, f"{mean:.0%} of covisible pixels lead back")


def _check_again(
    store: LabelStore,
    segments: Sequence[SegmentInfo],
    teacher: Teacher,
    sources: Sequence[Source],
) -> Check:
    """The sampled segments of the sources that are at hand, labelled once more."""
    name = "labelled again, they are the same"
    try:
        settings = LabelSettings.of_store(store.settings)
    except LabelStoreError as error:
        return Check(name, 1, (str(error),))
    if sha256_of_json(settings.with_teacher(teacher)) != sha256_of_json(store.settings):
        return Check(name, 1, (f"the teacher {teacher.name} and its parameters are not the store's",))
    wanted: dict[str, list[SegmentInfo]] = {}
    for segment in segments:
        wanted.setdefault(segment.source_sha256, []).append(segment)
    asked, exact, wrong = 0, 0, []
    for source in sources:
        try:
            sequence = open_source(source)
            digest = content_sha256(sequence)
            for segment in wanted.pop(digest, ()):
                asked += 1
                far = _difference(store, segment, sequence, teacher, settings)
                exact += far == 0
                if far > NEAR:
                    wrong.append(f"{segment.source}, frames from {segment.indices[0]}: {far:.2f} px apart")
        except (Flow3rError, OSError) as error:
            wrong.append(str(error))
    found = f"{exact} of {asked} bit for bit" if asked else f"{NOTHING}: no sampled segment is of these sources"
    return Check(name, asked, tuple(wrong), found)


def _difference(
    store: LabelStore, segment: SegmentInfo, sequence: frame.Sequence, teacher: Teacher, settings: LabelSettings
) -> float:
    """Mean distance, in pixels, between stored flow and flow made again; infinite if other pairs are accepted."""
    with tempfile.TemporaryDirectory() as folder:
        again = LabelStore(folder, settings.with_teacher(teacher))
        found = [r.info for r in label_source(sequence, again, teacher, settings, only=segment.indices)]
        if not found or found[0].pairs != segment.pairs:
            return float("inf")
        rows = range(len(segment.pairs))
        return float((store.flow(segment, rows).displacement - again.flow(found[0], rows).displacement).abs().mean())
