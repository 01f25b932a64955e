"""What every dataset has in common: what is said of it, and sequences of posed images that are listed when needed."""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.frame import Frame, Sequence, check_indices
from flow3r.data.images import read_image
from flow3r.data.transforms import undistort
from flow3r.errors import InputError

TEST_SHARE = 0.02  # ours: of the scenes of a dataset that publishes no test split
DepthMap = Float[np.ndarray, "H W"]
Image = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Dataset:
    """A public dataset in the layout of its release: one entry of DATASETS.

    `sequences(root)` lists the sequences below a root folder, by name, without reading more than folders and indices;
    it raises InputError that says what was looked for and what was found. What the labels are good for is said by
    `dense`, `rigid` and `scale`, never by the name.
    """

    name: str  # as in SourceConfig.dataset
    title: str
    sequences: Callable[[Path], List[Sequence]]
    labels: Literal["posed", "cameras", "depth", "none"]  # "posed": both depth and cameras
    layout: str  # what a root folder holds, in a line
    licence: str
    url: str
    citation: str
    dense: bool = False  # depth is dense and exact enough to supervise normals
    rigid: bool = False  # nothing moves, so that depth and poses give flow
    scale: Literal["relative", "metric"] = "metric"
    held_out: Callable[[Path], Collection[str]] = lambda root: ()  # names of the sequences that no run may learn from


@dataclass(frozen=True)
class PosedImage:
    """An image file with its labels, in our conventions, for the image as `fit` leaves it.

    `depth` reads z-depth in scene units; 0, negative and non-finite values are unknown. `fit` brings the image to the
    grid of its depth where the two differ. `distortion` holds OpenCV's coefficients of a lens that neither has been
    freed of: both are then undistorted on reading. None: the dataset does not know.
    """

    file: Path
    intrinsics: Float[np.ndarray, "3 3"] | None  # half-integer pixel centres
    world_from_camera: Float[np.ndarray, "4 4"] | None
    timestamp: float  # seconds, or the frame index
    depth: Callable[[], DepthMap] | None = None
    fit: Callable[[Image], Image] | None = None
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The usable images of a sequence in order, and how many others there are, by the reason they are left out for."""

    images: List[PosedImage]
    left_out: Counter[str] = field(default_factory=Counter)


class PosedImages:
    """Image files with poses as a Sequence; `listing` is called when the first of them is asked for.

    Raises InputError, naming the file, where an image or its depth cannot be read, or their sizes differ.
    """

    def __init__(self, name: str, listing: Callable[[], Listing]):
        self.name, self._listing = name, listing

    @cached_property
    def listing(self) -> Listing:
        return self._listing()

    @property
    def left_out(self) -> Counter[str]:
        """Images that cannot be used, by reason."""
        return self.listing.left_out

    @property
    def files(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(image.file for image in self.listing.images)

    def __len__(self) -> int:
        return len(self.listing.images)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return np.array([image.timestamp for image in self.listing.images], dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        for index in check_indices(indices, len(self)):
            posed = self.listing.images[index]
            image = read_image(posed.file)
            image = image if posed.fit is None else posed.fit(image)
            depth = None
            if posed.depth is not None:
                depth = posed.depth().astype(np.float32)
                if depth.shape != image.shape[:2]:
                    raise InputError(f"{posed.file}: is {image.shape[:2]}, its depth {depth.shape}; expected one size")
                depth = np.where((depth > 0) & (depth < np.inf), depth, np.float32(0))  # neither for NaN
            if posed.distortion:
                image, depth = undistort(image, depth, posed.intrinsics, posed.distortion)
            yield Frame(image, posed.timestamp, posed.file.name, depth, posed.intrinsics, posed.world_from_camera)


def folders(root: Path, pattern: str, dataset: str, layout: str) -> list[Path]:
    """The folders below `root` that match a glob, sorted. InputError, with what is there instead, if there is none."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the root of {dataset}: {layout}")
    found = sorted(path for path in root.glob(pattern) if path.is_dir())
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(f"{root}: no {pattern} as in {dataset} ({layout}); it holds {there}")
    return found


def scenes_for_tests(dataset: str, scenes: Iterable[str], share: float = TEST_SHARE) -> set[str]:
    """The scenes to hold out of a dataset that publishes no test split: about `share` of them, and one of two or more.

    A scene is held out if SHA-256("flow3r-test-v1|<dataset>|<scene>"), read as a number in [0, 1), lies below `share`,
    so that scenes that are added or missing change nothing for the others. Only where none does, in small parts of a
    dataset, it is the scene of the lowest number; it may be another one when scenes are added.
    """
    numbers = {scene: _number(f"flow3r-test-v1|{dataset}|{scene}") for scene in scenes}
    chosen = {scene for scene, number in numbers.items() if number < share}
    return chosen or ({min(numbers, key=lambda scene: (numbers[scene], scene))} if len(numbers) > 1 else set())


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
