"""One's own posed images: a folder with a `cameras.json` (folder.py), or a folder of such folders."""

from collections.abc import Sequence as List
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.folder import CAMERAS, CameraFolder
from flow3r.data.frame import Sequence
from flow3r.data.images import natural_key
from flow3r.errors import InputError

LAYOUT = f"{CAMERAS} with the images, or folders that each have one"


def sequences(root: Path) -> List[Sequence]:
    """The folder itself, or the folders in it. Raises InputError, naming the file, where one is missing."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected posed images: {LAYOUT}")
    if (root / CAMERAS).is_file():
        return [CameraFolder(root)]
    found = sorted((file.parent for file in root.glob(f"*/{CAMERAS}")), key=natural_key)
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(f"{root}: no {LAYOUT}; it holds {there}")
    return [CameraFolder(folder) for folder in found]


POSED_FOLDERS = Dataset(
    name="posed_folders",
    title="Any posed images",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="that of the images",
    url="",
    citation="that of the images",
    scale="relative",
)
