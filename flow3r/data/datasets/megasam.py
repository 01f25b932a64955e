"""Results of MegaSaM as pseudo ground truth: clips with estimated depth and cameras, images included.

After its repository (mega-sam): `outputs_cvd/<scene>_sgd_cvd_hr.npz` of cvd_opt, whose depth is consistent over the
clip, and `outputs/<scene>_droid.npz` of the tracker, used where the first is missing. Both hold `images` (RGB, working
size), `depths`, one `intrinsic` and `cam_c2w` (OpenCV axes). Their pixel grids start at 0: centres are integers. Depth
at 1e-3 or 1e2, to which the first is clipped in 16 bits, is unknown, in both. The scale is that of a monocular
estimate. Arrays are read frame by frame, as they are stored without compression.
"""

import math
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.frame import Frame, Sequence, check_indices
from flow3r.errors import InputError

CONSISTENT, TRACKED = "outputs_cvd/*_sgd_cvd_hr.npz", "outputs/*_droid.npz"
LAYOUT = f"{CONSISTENT} or {TRACKED}".replace("*", "<scene>")
NEAREST, FARTHEST = float(np.float16(1e-3)), 1e2


def stored_frames(file: Path, key: str, indices: Iterable[int]) -> Iterator[Shaped[np.ndarray, "*shape"]]:
    """The given entries, ascending, of an array of an .npz file, one at a time. InputError for a damaged file."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{key}.npy") as member:
            shape, columns_first, dtype = _header(member)
            if dtype.hasobject or columns_first:
                raise ValueError(f"{dtype} that is not stored frame after frame")
            start, size = member.tell(), math.prod(shape[1:]) * dtype.itemsize
            for index in indices:
                member.seek(start + index * size)
                yield np.frombuffer(member.read(size), dtype).reshape(shape[1:])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: its {key!r} cannot be read ({error})") from error


def _header(member: zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(member)](member)


class EstimatedClip:
    """One result as a Sequence. Raises InputError, naming the file, for one that is damaged or of other shapes."""

    def __init__(self, name: str, file: Path):
        self.name, self._file = name, file

    @property
    def files(self) -> tuple[Path, ...]:
        """The file whose content determines the frames."""
        return (self._file,)

    @property
    def left_out(self) -> Counter[str]:
        """Frames that cannot be used, by reason."""
        lost = len(self._cameras[1]) - len(self._usable)
        return Counter({"pose not finite": lost} if lost else {})

    def __len__(self) -> int:
        return len(self._usable)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """The frames' numbers: results have no clock."""
        return self._usable.astype(np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, read one at a time."""
        intrinsics, poses = self._cameras
        numbers = [int(self._usable[index]) for index in check_indices(indices, len(self))]
        images, depths = (stored_frames(self._file, key, numbers) for key in ("images", "depths"))
        for number, image, stored in zip(numbers, images, depths):
            depth = stored.astype(np.float32)
            depth = np.where((depth > NEAREST) & (depth < FARTHEST), depth, np.float32(0))
            yield Frame(image, float(number), f"{self.name}_{number:06d}", depth, intrinsics, poses[number])

    @cached_property
    def _cameras(self) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "N 4 4"]]:
        try:
            with np.load(self._file, allow_pickle=False) as arrays:
                intrinsics, poses = arrays["intrinsic"].astype(np.float64), arrays["cam_c2w"].astype(np.float64)
            with zipfile.ZipFile(self._file) as archive:
                shapes = {key: _header(archive.open(f"{key}.npy"))[0] for key in ("images", "depths")}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._file}: not a result of MegaSaM that can be read ({error})") from error
        if shapes["images"] != (*shapes["depths"], 3) or poses.shape != (shapes["depths"][0], 4, 4):
            raise InputError(f"{self._file}: images, depths and poses of {shapes}, {poses.shape}; expected one size")
        intrinsics[:2, 2] += 0.5
        return intrinsics, poses

    @cached_property
    def _usable(self) -> Int[np.ndarray, "N"]:
        return np.flatnonzero(np.isfinite(self._cameras[1]).all(axis=(1, 2)))


def sequences(root: Path) -> List[Sequence]:
    """The scenes below `root`, the folder that MegaSaM ran in: of each, the consistent result if there is one."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the root of MegaSaM's results: {LAYOUT}")
    found = {}
    for pattern in (TRACKED, CONSISTENT):
        found |= {file.name.removesuffix(pattern.rpartition("*")[2]): file for file in root.glob(pattern)}
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(f"{root}: no {LAYOUT} as MegaSaM writes; it holds {there}")
    return [EstimatedClip(name, found[name]) for name in sorted(found)]


MEGASAM = Dataset(
    name="megasam",
    title="MegaSaM's results",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="that of the videos; MegaSaM itself is Apache 2.0",
    url="https://github.com/mega-sam/mega-sam",
    citation="Li et al., MegaSaM: Accurate, Fast, and Robust Structure and Motion from Casual Dynamic Videos, "
    "CVPR 2025",
    scale="relative",
)
