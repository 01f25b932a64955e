"""The sources of a run, made of the datasets that its configuration names."""

from collections import Counter
from collections.abc import Collection, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path

from flow3r.config import DataConfig, SourceConfig
from flow3r.data.clips import LabelClips
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.packed import described, is_packed, packed_dataset
from flow3r.data.frame import Sequence
from flow3r.data.indexed import stored_clips
from flow3r.data.labels import MANIFEST, LabelStore
from flow3r.data.mixture import Source, Weighted
from flow3r.data.posed import PosedScenes
from flow3r.data.stored_flow import StoredFlow
from flow3r.data.subsets import Subset, draw_subset, write_subset
from flow3r.data.taught import Footage, HybridClips, TaughtClips
from flow3r.errors import InputError
from flow3r.files import is_url, list_files
from flow3r.types import Teacher

PSEUDO = "megasam"  # the dataset whose reader reads an optimiser's pseudo labels


@dataclass(frozen=True)
class Recipe:
    """What a run draws from, and which sequences these are."""

    labelled: Weighted
    clips: Weighted
    subsets: tuple[Subset, ...]
    without_flow: tuple[str, ...]  # labelled datasets in which something moves, for want of a teacher or labels

    def write_lists(self, folder: Path) -> None:
        """One file for each dataset: its sequences and their sha256 (data/subsets.py)."""
        for number, subset in enumerate(self.subsets):
            write_subset(folder / f"{number:02d}_{subset.dataset}.json", subset)


def make_recipe(
    data: DataConfig,
    root: Path,
    datasets: Mapping[str, Dataset],
    *,
    labels: str | Path | None = None,
    teacher: Teacher | None = None,
    trainable: Collection[str] = ("",),
    seed: int = 0,
) -> Recipe:
    """The sources that `data` names, each dataset in a folder of its name below `root`, as released or packed.

    Flow of unlabelled sequences is that of the label stores `labels`/<dataset>, of the `teacher`, or of both: of the
    store where it has a sequence. So is that of labelled scenes in which something moves, where there is such a store.
    A store has a sequence by its name in the dataset, or by the last part of that if no other sequence has it too: the
    name of its file. What a dataset holds out for tests is never drawn. `trainable` as in TrainConfig.

    Raises InputError naming every dataset that is not there or has not what the run needs, before any is read.
    """
    readers = {source: _reader(source, root, datasets) for source in (*data.labelled, *data.unlabelled)}
    _check(readers, data, root, datasets, labels, teacher, all(name.startswith("flow_head") for name in trainable))
    chosen: list[Subset] = []

    def sequences_of(source: SourceConfig) -> tuple[List[Sequence], dict[str, str]]:
        """What may be drawn, and which of it the sources of a label store are."""
        reader = readers[source]
        found = {sequence.name: sequence for sequence in reader.sequences(_folder(root, source))}
        chosen.append(draw_subset(source, found, test=reader.held_out(_folder(root, source)), seed=seed))
        return [found[name] for name in chosen[-1].names], _labelled_as(chosen[-1].names, found)

    def labelled(source: SourceConfig) -> Source:
        own, (sequences, names) = readers[source], sequences_of(source)
        kind = {"dense": own.dense, "rigid": own.rigid, "teacher": None if own.rigid else teacher}
        store = None if own.rigid else _store(labels, source)
        stored = None if store is None else StoredFlow(LabelStore(store), names)
        return PosedScenes(sequences, strides=data.stride_seconds, stored=stored, **kind)

    def unlabelled(source: SourceConfig) -> Source:
        sequences, names = sequences_of(source)
        if teacher is None:
            return stored_clips(f"{labels}/{source.dataset}", crop=data.crop_clips, only=names)
        taught = TaughtClips(Footage(sequences), teacher, crop=data.crop_clips, strides=data.stride_seconds)
        if labels is None:
            return taught
        store = LabelStore(f"{labels}/{source.dataset}")
        return HybridClips(LabelClips(store, crop=data.crop_clips, only=names), taught)

    return Recipe(
        [(labelled(source), source.weight) for source in data.labelled],
        [(unlabelled(source), source.weight) for source in data.unlabelled],
        tuple(chosen),
        tuple(s.dataset for s in data.labelled if _lacks_flow(s, readers[s], labels, teacher)),
    )


def _labelled_as(chosen: Collection[str], every: Collection[str]) -> dict[str, str]:
    """The chosen sequences by what a store may call them: `flow3r label` calls a video after its file."""
    times = Counter(name.rsplit("/", 1)[-1] for name in every)
    short = {last: name for name in chosen if times[last := name.rsplit("/", 1)[-1]] == 1 and last not in every}
    return short | {name: name for name in chosen}


def _store(labels: str | Path | None, source: SourceConfig) -> str | None:
    """The label store of a dataset, if there is one."""
    folder = f"{labels}/{_folder(Path(), source).name}"
    try:
        return folder if labels is not None and list_files(folder, MANIFEST) else None
    except FileNotFoundError:  # a URL
        return None


def _lacks_flow(source: SourceConfig, reader: Dataset, labels: str | Path | None, teacher: Teacher | None) -> bool:
    """Whether nothing gives the flow of a labelled dataset."""
    return not reader.rigid and teacher is None and _store(labels, source) is None


def _folder(root: Path, source: SourceConfig) -> Path:
    return root / (f"{source.dataset}_{PSEUDO}" if source.labels == PSEUDO else source.dataset)


def _reader(source: SourceConfig, root: Path, datasets: Mapping[str, Dataset]) -> Dataset | None:
    """Of the release, or of a packed copy in its place; None where there is none."""
    folder, reader = _folder(root, source), datasets.get(PSEUDO if source.labels == PSEUDO else source.dataset)
    return described(folder) if reader is not None and is_packed(folder) else reader


def _check(
    readers: Mapping[SourceConfig, Dataset | None],
    data: DataConfig,
    root: Path,
    datasets: Mapping[str, Dataset],
    labels: str | Path | None,
    teacher: Teacher | None,
    flow_alone: bool,
) -> None:
    wrong = []
    for source, reader in readers.items():
        folder, name = _folder(root, source), PSEUDO if source.labels == PSEUDO else source.dataset
        if reader is None:
            wrong.append(f"{source.dataset}: there is no reader for it; there are {', '.join(sorted(datasets))}")
        elif not folder.is_dir():
            wrong.append(f"{folder}: missing; expected {reader.title}: {reader.layout}")
        elif is_packed(folder) and name not in ("packed", packed_dataset(folder)):
            wrong.append(f"{folder}: a packed copy of {packed_dataset(folder)}; expected {name}, released or packed")
        elif source in data.labelled and reader.labels != "posed":
            wrong.append(f"{source.dataset}: gives {reader.labels}; labelled training needs depth and cameras")
        elif source in data.labelled and flow_alone and _lacks_flow(source, reader, labels, teacher):
            needed = f"a teacher (--teacher) or a label store (--labels, {_folder(Path(), source).name} in it)"
            wrong.append(f"{source.dataset}: something moves there, so that its flow needs {needed}")
    for source in data.unlabelled:
        if labels is None and teacher is None:
            wrong.append(f"{source.dataset}: is unlabelled; give label stores (--labels) or a teacher (--teacher)")
        elif labels is not None and not is_url(labels) and not Path(labels, source.dataset).is_dir():
            wrong.append(f"{labels}/{source.dataset}: missing; expected the label store of {source.dataset}")
    if wrong:
        raise InputError("\n  ".join(wrong))
