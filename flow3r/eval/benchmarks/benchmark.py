"""What a benchmark is: which sequences, which frames, which truth, what is measured and in what unit."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from flow3r.data.catalogue import DATASETS
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.packed import described, is_packed, packed_dataset
from flow3r.data.frame import Frame, Sequence, check_indices, frame_sizes
from flow3r.data.prepare import ACCEPTED
from flow3r.errors import InputError
from flow3r.eval.benchmarks.labelled_segments import labelled_segments
from flow3r.eval.benchmarks.samplings import Sampling
from flow3r.metrics.points import FLOW3R, PointProfile

MEGASAM = "megasam"  # key of the reader of pseudo ground truth, and the end of its folder's name
LABELS = "labels"  # the folder of label stores below a root

# A rule that names the wanted among the sequences that are there: (benchmark, root, folder, names there) -> names.
Choice = Callable[["Benchmark", Path, Path, Collection[str]], Collection[str]]


@dataclass(frozen=True)
class Part:
    """`count` frames of a sequence from `start` on, every `step`-th; fewer where it ends.

    A sequence of exactly `count` frames is taken whole: it has been cut already, as preparations of others leave it.
    """

    start: int
    count: int
    step: int = 1

    def indices(self, n: int) -> range:
        """In a sequence of `n` frames."""
        return range(n) if n == self.count else range(self.start, n, self.step)[: self.count]


@dataclass(frozen=True)
class Cut:
    """Some frames of a sequence as a sequence; which ones is found when it is first asked for its length."""

    whole: Sequence
    part: Part

    @property
    def name(self) -> str:
        return self.whole.name

    @cached_property
    def _indices(self) -> range:
        return self.part.indices(len(self.whole))

    def __len__(self) -> int:
        return len(self._indices)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self.whole.timestamps()[list(self._indices)]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        return self.whole.frames([self._indices[index] for index in check_indices(indices, len(self))])

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the frames at `indices`."""
        return frame_sizes(self.whole, [self._indices[index] for index in check_indices(indices, len(self))])


@dataclass(frozen=True)
class SingleImage:
    """One frame of a sequence as a sequence of its own, for measures of single images."""

    whole: Sequence
    index: int

    @property
    def name(self) -> str:
        return f"{self.whole.name}/{self.index:06d}"

    def __len__(self) -> int:
        return 1

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self.whole.timestamps()[self.index : self.index + 1]

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        return self.whole.frames([self.index for _ in check_indices(indices, 1)])


@dataclass(frozen=True)
class Selection:
    """The sequences of a benchmark on a disk, by name."""

    sequences: Mapping[str, Sequence]
    missing: tuple[str, ...]  # chosen by their names, and not there


@dataclass(frozen=True)
class Benchmark:
    """One row of the table: everything that a number depends on, but for the data and the method."""

    name: str  # key and file name
    title: str  # the dataset as the paper's tables print it
    dataset: str  # key of DATASETS, and the folder below the root
    sampling: Sampling
    measures: tuple[str, ...]  # groups of columns: pose, points, normals, depth, flow
    labels_vary: bool = False  # a group whose labels a sequence lacks is not measured of it, instead of failing
    profile: Literal["flow3r", "pi3"] = "flow3r"
    points: PointProfile = FLOW3R
    farthest: float | None = None  # depth beyond it is not scored, in the dataset's unit
    chosen: Choice | tuple[str, ...] | None = None  # which sequences, by a rule or by their names; None: all
    part: Part | None = None  # of each sequence
    single_images: bool = False  # each frame is measured alone
    pseudo: Literal["", "megasam", "labels"] = ""  # what made the truth, where it is no measurement
    variant: Dataset | None = None  # another reading of the dataset than that of DATASETS
    lengths: Mapping[str, int] = field(default_factory=dict)  # frames of the sequences, where these are known facts

    def folder(self, root: Path) -> Path:
        """Where its data are: ROOT/<dataset>, or the label store ROOT/labels/<dataset>, or results of MegaSaM.

        The latter are ROOT/<dataset>_megasam, as MegaSaM or as `flow3r data prepare` leaves them.
        """
        if self.pseudo == LABELS:
            return root / LABELS / self.dataset
        if self.pseudo != MEGASAM:
            return root / self.dataset
        results = root / f"{self.dataset}_{MEGASAM}"
        return results / ACCEPTED if (results / ACCEPTED).is_dir() else results

    def reader(self, folder: Path) -> Dataset:
        """What reads `folder`: the release, or a packed copy in its place."""
        name = MEGASAM if self.pseudo == MEGASAM else self.dataset
        if not is_packed(folder):
            return self.variant or DATASETS[name]
        if self.variant is not None or packed_dataset(folder) != name:
            wanted = (self.variant or DATASETS[name]).title
            raise InputError(f"{folder}: a packed copy of {packed_dataset(folder)}; {self.name} needs {wanted}")
        return described(folder)

    def select(self, root: Path, folder: Path | None = None) -> Selection:
        """Its sequences below `root`, or in `folder` instead of `self.folder(root)`.

        Raises InputError where the folder is missing, is of another layout, or has none of the sequences.
        """
        folder = self.folder(root) if folder is None else folder
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; {self.name} needs {self._needs()} there")
        there = {sequence.name: sequence for sequence in self._listed(folder)}
        if isinstance(self.chosen, tuple):
            wanted = self.chosen
        else:
            wanted = there if self.chosen is None else self.chosen(self, root, folder, tuple(there))
        found = {name: there[name] for name in sorted(wanted) if name in there}
        if not found:
            examples = ", ".join(sorted(wanted)[:3]) or "sequences held out for tests"
            raise InputError(f"{folder}: none of the sequences of {self.name} ({examples}); {len(there)} others there")
        missing = tuple(sorted(set(wanted) - set(found)))
        return Selection({each.name: each for whole in found.values() for each in self._measured(whole)}, missing)

    def _listed(self, folder: Path) -> List[Sequence]:
        return labelled_segments(folder) if self.pseudo == LABELS else self.reader(folder).sequences(folder)

    def _measured(self, whole: Sequence) -> Iterator[Sequence]:
        cut = whole if self.part is None else Cut(whole, self.part)
        if self.single_images:
            yield from (SingleImage(cut, index) for index in range(len(cut)))
        else:
            yield cut

    def _needs(self) -> str:
        if self.pseudo == LABELS:
            store = f"a label store of {DATASETS[self.dataset].title}"
            make = f"flow3r label ROOT/{self.dataset} --dataset {self.dataset} -o ROOT/{LABELS}/{self.dataset}"
            return f"{store} (made by: {make} --teacher ufm)"
        reader = self.variant or DATASETS[MEGASAM if self.pseudo == MEGASAM else self.dataset]
        of = f" on {DATASETS[self.dataset].title}" if self.pseudo == MEGASAM else ""
        return f"{reader.title}{of}: {reader.layout}"
