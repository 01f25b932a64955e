"""Worlds of a set, rendered once and kept on disk, for whoever needs them more often than they are worth rendering.

A folder holds `manifest.json`, which says what was rendered, and a file for each world, such as `00007.npy`: a NumPy
record of its images (8 bits a channel), depth, cameras and, if wanted, flow of all ordered pairs of its frames
(float16, one bit of covisibility). Files are mapped into memory, and checked when they are first read.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from flow3r.data.mixture import Wanted
from flow3r.data.regime_measures import seen_moving
from flow3r.data.regime_sources import Flaws, LabelledSequences, as_video
from flow3r.data.regimes import DOMAINS, FRAMES, SIDE, WorldSet
from flow3r.data.sampling import ordered_pairs
from flow3r.data.worlds import RENDERER
from flow3r.errors import InputError
from flow3r.files import atomic_path, sha256_of_json, write_json
from flow3r.types import Flow, Views

FORMAT, VERSION, MANIFEST = "flow3r-kept-worlds", 1, "manifest.json"
_AT_ONCE = 8  # worlds that are rendered together: always the same ones, so that a file does not depend on interruptions
_HALF = torch.finfo(torch.float16).max  # pixels; flow beyond it is that of pixels which are not covisible


@dataclass(frozen=True)
class WorldFacts:
    """What moves in a world, as its kept frames show it."""

    moving_objects: int
    moving_area: float  # mean share of a frame's pixels


@dataclass(frozen=True)
class KeptWorlds:
    """Worlds of a set on disk, as `keep_worlds` left them. Reading raises InputError for a damaged file, named."""

    worlds: WorldSet
    folder: Path
    frames: tuple[int, ...]  # of every sequence, ascending
    flow: bool  # that of all ordered pairs of the frames is kept
    _checked: set[int] = field(default_factory=set, repr=False, compare=False)  # worlds whose bytes were found whole

    def views(
        self,
        numbers: Sequence[int],
        frames: Int[Tensor, "B n"] | None = None,
        pairs: Int[Tensor, "B P 2"] | None = None,
    ) -> Views:
        """Frames of these worlds, by default all that are kept, with all labels and names, as WorldSet.render has them.

        Flow is that of the ordered `pairs` (positions in `frames`; none of them: no flow), by default of all, source by
        source, if it is kept. Raises InputError for a world, a frame or flow that is not kept.
        """
        if frames is None:
            frames = torch.tensor(self.frames).expand(len(numbers), -1)
        if pairs is None and self.flow:
            pairs = torch.tensor(ordered_pairs(frames.shape[1])).reshape(-1, 2).expand(len(numbers), -1, -1)
        places = self._places(frames)
        records = [self._record(number) for number in numbers]

        def gathered(name: str) -> Tensor:
            return torch.from_numpy(np.stack([one[name][place] for one, place in zip(records, places.numpy())]))

        return Views(
            images=gathered("images").movedim(-1, 2).float() / 255,
            depth=gathered("depth"),
            intrinsics=gathered("intrinsics"),
            world_from_camera=gathered("world_from_camera"),
            dense=torch.ones(frames.shape, dtype=torch.bool),
            flow=self._flow(records, places, pairs) if pairs is not None and pairs.shape[1] else None,
            names=self.worlds.names_of(numbers, frames),
        )

    def facts(self, number: int) -> WorldFacts:
        """Raises InputError for a world that is not in the set."""
        record = self._record(number)
        return WorldFacts(int(record["moving_objects"]), float(record["moving_area"]))

    def _places(self, frames: Int[Tensor, "B n"]) -> Int[Tensor, "B n"]:
        """Where the frames stand among those that are kept."""
        same = frames[..., None] == torch.tensor(self.frames)
        if not same.any(-1).all():
            raise InputError(f"{self.folder}: keeps frames {list(self.frames)}; got {frames.unique().tolist()}")
        return same.long().argmax(-1)

    def _flow(self, records: list[np.ndarray], places: Int[Tensor, "B n"], pairs: Int[Tensor, "B P 2"]) -> Flow:
        if not self.flow:
            raise InputError(f"{self.folder}: keeps no flow, but some was asked for; keep the worlds with flow=True")
        source, target = (places.gather(1, end) for end in pairs.unbind(-1))
        if (source == target).any():
            raise InputError(f"flow from a frame to itself in pairs {pairs.tolist()}; expected two frames in each")
        rows = (source * (len(self.frames) - 1) + target - (target > source).long()).numpy()
        displacement = np.stack([one["displacement"][row] for one, row in zip(records, rows)])
        bits = np.stack([one["covisible"][row] for one, row in zip(records, rows)])
        covisible = torch.from_numpy(np.unpackbits(bits, axis=-1, count=SIDE * SIDE)).float()
        return Flow(pairs, torch.from_numpy(displacement).float(), covisible.unflatten(-1, (SIDE, SIDE)))

    def _path(self, number: int) -> Path:
        self.worlds.name_of(number)  # refuses a number that is not in the set
        return self.folder / f"{number:05d}.npy"

    def _record(self, number: int) -> np.ndarray:
        record = _mapped(self._path(number), _record_type(len(self.frames), self.flow))
        if number not in self._checked:
            if record["checksum"] != _checksum(record):
                raise InputError(f"{self._path(number)}: damaged (its checksum differs); delete it and keep it again")
            self._checked.add(number)
        return record


def keep_worlds(
    worlds: WorldSet, folder: str | Path, *, frames: tuple[int, ...] | None = None, flow: bool = False
) -> KeptWorlds:
    """Render the worlds of a set into a folder, but for those that are there: frames of them, by default all.

    With `flow`, also that of all ordered pairs of the frames. A folder of more worlds of the set serves for fewer, and
    grows. Raises InputError for a folder of something else or of other settings, for a file in it that is damaged, and
    for frames that are not ascending ones of a sequence.
    """
    chosen = tuple(range(FRAMES)) if frames is None else tuple(frames)
    if not chosen or chosen != tuple(sorted({*chosen} & {*range(FRAMES)})):
        raise InputError(f"frames {chosen} of a sequence; expected ascending ones among 0..{FRAMES - 1}")
    kept = KeptWorlds(worlds, Path(folder), chosen, flow)
    _agree_on_manifest(kept)
    record_type = _record_type(len(chosen), flow)
    for first in range(0, worlds.count, _AT_ONCE):
        numbers = range(first, min(first + _AT_ONCE, worlds.count))
        missing = [number for number in numbers if not kept._path(number).exists()]
        for number in set(numbers) - {*missing}:
            _mapped(kept._path(number), record_type)
        if missing:
            records = _rendered(kept, numbers)
            for number in missing:
                _write(kept._path(number), records[number - first, ...])
    return kept


class KeptSequences(LabelledSequences):
    """LabelledSequences of kept worlds: it draws the same scenes, and reads them. Sets kept without flow give none.

    Raises InputError for worlds of which not all frames are kept.
    """

    def __init__(self, kept: KeptWorlds):
        super().__init__(kept.worlds)
        if len(kept.frames) != FRAMES:
            raise InputError(
                f"{kept.folder}: keeps frames {list(kept.frames)}; keep all {FRAMES} of a sequence to draw from it"
            )
        self.kept = kept

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """Square images of SIDE, no more views than a sequence has frames, and pairs only if flow is kept."""
        pairs = wanted.pairs if self.kept.flow else 0
        return replace(super().fit(wanted, generator), size=(SIDE, SIDE), pairs=pairs)

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of what `fit` returned."""
        if wanted != self.fit(wanted, generator):
            raise ValueError(f"{self.kept.folder} has no scene of {wanted}; ask for what fit() returns")
        numbers, frames, pairs = self._drawn(wanted, generator)
        return self.kept.views(numbers, frames, frames.new_zeros(len(numbers), 0, 2) if pairs is None else pairs)


class KeptVideo(KeptSequences):
    """UnlabelledSequences of kept worlds: it draws the same scenes, and reads them; flow is rounded as it is kept."""

    def __init__(self, kept: KeptWorlds, flaws: Flaws):
        super().__init__(kept)
        self.flaws = flaws

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of what `fit` returned, without depth, poses and intrinsics."""
        return as_video(super().draw(wanted, generator), self.flaws)


def _record_type(frames: int, flow: bool) -> np.dtype:
    """All of a world, little-endian and without gaps."""
    labels: list[tuple[Any, ...]] = [
        ("checksum", "<u4"),  # CRC-32 of what follows
        ("moving_objects", "<u4"),
        ("moving_area", "<f8"),
        ("intrinsics", "<f4", (frames, 3, 3)),
        ("world_from_camera", "<f4", (frames, 4, 4)),
        ("depth", "<f4", (frames, SIDE, SIDE)),
        ("images", "u1", (frames, SIDE, SIDE, 3)),
    ]
    if flow:
        pairs = frames * (frames - 1)
        labels += [("displacement", "<f2", (pairs, SIDE, SIDE, 2)), ("covisible", "u1", (pairs, -(-SIDE * SIDE // 8)))]
    return np.dtype(labels)


def _rendered(kept: KeptWorlds, numbers: Sequence[int]) -> np.ndarray:
    """The records of some worlds."""
    frames = torch.tensor(kept.frames).expand(len(numbers), -1)
    pairs = torch.tensor(ordered_pairs(len(kept.frames))).reshape(-1, 2).expand(len(numbers), -1, -1)
    made = kept.worlds.render(numbers, frames, pairs if kept.flow else None)
    views, records = made.views, np.zeros(len(numbers), _record_type(len(kept.frames), kept.flow))
    records["moving_objects"], records["moving_area"] = (value.numpy() for value in seen_moving(made))
    for name in ("intrinsics", "world_from_camera", "depth"):
        records[name] = getattr(views, name).numpy()
    records["images"] = (views.images.movedim(2, -1) * 255).round().byte().numpy()
    if kept.flow:
        records["displacement"] = views.flow.displacement.clamp(-_HALF, _HALF).half().numpy()
        records["covisible"] = np.packbits((views.flow.covisible > 0).flatten(2).numpy(), axis=-1)
    for row in range(len(records)):
        records["checksum"][row] = _checksum(records[row, ...])
    return records


def _checksum(record: np.ndarray) -> int:
    return zlib.crc32(memoryview(record.reshape(1).view(np.uint8))[record.dtype["checksum"].itemsize :])


def _write(path: Path, record: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, record, allow_pickle=False)


def _mapped(path: Path, record_type: np.dtype) -> np.ndarray:
    try:
        record = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: missing or damaged ({error}); delete it and keep the worlds again") from error
    if record.shape != () or record.dtype != record_type:
        raise InputError(f"{path}: is no kept world of these frames; choose another folder, or delete this one")
    return record


def _agree_on_manifest(kept: KeptWorlds) -> None:
    """Write what is kept, or find it written. Raises InputError where the folder holds something else."""
    path, worlds = kept.folder / MANIFEST, kept.worlds
    settings = {
        "set": worlds.name,
        "frames": list(kept.frames),
        "of": FRAMES,
        "side": SIDE,
        "flow": kept.flow,
        "worlds_sha256": sha256_of_json(asdict(DOMAINS[worlds.domain])),
        "renderer": RENDERER,
    }
    if path.exists():
        found = {"renderer": 1, **_read_manifest(path)}  # which it was before manifests told it
        changed = sorted(key for key in settings if found.get(key) != settings[key])
        if changed:
            raise InputError(
                f"{kept.folder}: keeps worlds of other settings ({', '.join(changed)}); choose another folder, or "
                "delete this one"
            )
        if found["count"] >= worlds.count:
            return
    elif kept.folder.is_dir() and any(entry.suffix != ".json" for entry in kept.folder.iterdir()):
        raise InputError(f"{kept.folder}: holds files, but no {MANIFEST}; choose a new or empty folder")
    write_json(path, {"format": FORMAT, "version": VERSION, "count": worlds.count, **settings})


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); delete the folder and keep the worlds again") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("count"), int):
        raise InputError(f"{path}: not the manifest of kept worlds; choose another folder")
    if found.get("version") != VERSION:
        raise InputError(
            f"{path}: worlds of version {found.get('version')}, this program reads version {VERSION}; keep them again"
        )
    return found
