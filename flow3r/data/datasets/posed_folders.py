"""One's own posed images: a folder with a `cameras.json` (folder.py), or a folder of such folders."""

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.folder import CAMERAS, CameraFolder
from flow3r.data.frame import Frame, Sequence
from flow3r.data.images import natural_key
from flow3r.errors import InputError

LAYOUT = f"{CAMERAS} with the images, or folders that each have one"


@dataclass(frozen=True)
class ListedFolder:
    """A CameraFolder that is opened when it is first asked for, so that a damaged one costs only itself."""

    path: Path

    @cached_property
    def _folder(self) -> CameraFolder:
        return CameraFolder(self.path)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content determines the frames."""
        return self._folder.files

    def __len__(self) -> int:
        return len(self._folder)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self._folder.timestamps()

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        return self._folder.frames(indices)


def sequences(root: Path) -> List[Sequence]:
    """The folder itself, or the folders in it."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected posed images: {LAYOUT}")
    if (root / CAMERAS).is_file():
        return [ListedFolder(root)]
    found = sorted((file.parent for file in root.glob(f"*/{CAMERAS}")), key=natural_key)
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(f"{root}: no {LAYOUT}; it holds {there}")
    return [ListedFolder(folder) for folder in found]


POSED_FOLDERS = Dataset(
    name="posed_folders",
    title="Any posed images",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="that of the images",
    url="",
    citation="",
    scale="relative",
)
