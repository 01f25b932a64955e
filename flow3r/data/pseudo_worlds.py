"""Worlds of a set with the poses, intrinsics and depth that an optimiser found: pseudo-3D labels, and scenes of them.

A folder holds `worlds.json`, which says what the labels were made with and what became of every world, and for each
solved one a file such as `00007.safetensors`: the frames that were placed, with images (8 bits a channel), z-depth (0
where it is unknown) and cameras. Each world has a scale and a world frame of its own.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flow3r.data.mixture import Source, Wanted
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError
from flow3r.files import sha256_of_json, write_bytes, write_json
from flow3r.types import Views

FORMAT, VERSION, INDEX = "flow3r-pseudo-3d", 1, "worlds.json"


@dataclass(frozen=True)
class PseudoWorld:
    """The placed frames of a world; `facts` say how it was solved, in JSON's types."""

    frames: Int[np.ndarray, "n"]  # of the sequence, ascending
    images: UInt8[np.ndarray, "n H W 3"]
    depth: Float[np.ndarray, "n H W"]
    intrinsics: Float[np.ndarray, "n 3 3"]
    world_from_camera: Float[np.ndarray, "n 4 4"]
    facts: dict[str, Any] = field(default_factory=dict)


class PseudoWorlds:
    """A folder of pseudo-3D labels of a set, which may hold those of more of its worlds.

    With `settings`, all that the labels depend on, it is made, or reopened for writing if it was made with the same;
    without, it is read. Raises InputError for a folder of another set, version or settings, or of no labels.
    """

    def __init__(self, worlds: WorldSet, folder: str | Path, settings: dict[str, Any] | None = None):
        self.worlds, self.folder = worlds, Path(folder)
        index = self.folder / INDEX
        if settings is not None and not index.exists():
            head = {"format": FORMAT, "version": VERSION, "set": worlds.name, "frames": FRAMES, "side": SIDE}
            write_json(index, {**head, "settings": settings, "worlds": {}})
        self._index = _read_index(index, worlds)
        if settings is not None and sha256_of_json(settings) != sha256_of_json(self._index["settings"]):
            raise InputError(
                f"{self.folder}: the pseudo-3D labels here were made with other settings; choose another folder, or "
                "delete this one"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return self._index["settings"]

    @property
    def solved(self) -> dict[int, int]:
        """By the number of a solved world: how many of its frames were placed."""
        return {number: len(told["placed"]) for number, told in self._outcomes() if "placed" in told}

    @property
    def failed(self) -> dict[int, str]:
        """By the number of a world that was not solved: why."""
        return {number: told["failed"] for number, told in self._outcomes() if "failed" in told}

    @property
    def missing(self) -> list[int]:
        """Worlds that were not tried yet."""
        tried = {number for number, _ in self._outcomes()}
        return [number for number in range(self.worlds.count) if number not in tried]

    def facts(self, number: int) -> dict[str, Any]:
        """What the index tells of a world that was tried."""
        return self._index["worlds"][str(number)]

    def write(self, number: int, world: PseudoWorld) -> None:
        """Keep a solved world, whole or not at all."""
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(getattr(world, name), dtype))
            for name, dtype in (
                ("images", np.uint8),
                ("depth", np.float32),
                ("intrinsics", np.float32),
                ("world_from_camera", np.float32),
            )
        }
        write_bytes(self._path(number), save(tensors))
        self._tell(number, {"placed": world.frames.tolist(), **world.facts})

    def fail(self, number: int, reason: str) -> None:
        """Keep that a world was not solved, and why."""
        self.worlds.name_of(number)
        self._tell(number, {"failed": reason})

    def views(self, numbers: Sequence[int], rows: Int[Tensor, "B n"]) -> Views:
        """Some of the placed frames of solved worlds, by their positions among those placed, with names.

        Depth is not dense: what flow could not tell is 0. Raises InputError for a file that is missing or damaged.
        """
        parts = [self._read(number, chosen) for number, chosen in zip(numbers, rows)]
        frames = torch.stack([torch.tensor(self.facts(k)["placed"])[chosen] for k, chosen in zip(numbers, rows)])
        images, depth, intrinsics, poses = (torch.stack(values) for values in zip(*parts))
        return Views(
            images=images.movedim(-1, 2).float() / 255,
            depth=depth,
            intrinsics=intrinsics,
            world_from_camera=poses,
            dense=torch.zeros(rows.shape, dtype=torch.bool),
            names=self.worlds.names_of(numbers, frames),
        )

    def _read(self, number: int, rows: Int[Tensor, "n"]) -> tuple[Tensor, ...]:
        names = ("images", "depth", "intrinsics", "world_from_camera")
        try:
            with safe_open(self._path(number), framework="pt") as file:
                return tuple(file.get_tensor(name)[rows] for name in names)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{self._path(number)}: missing or damaged ({error}); take world {number} out of {INDEX}, or delete "
                "the folder, and label again"
            ) from error

    def _path(self, number: int) -> Path:
        self.worlds.name_of(number)  # refuses a number that is not in the set
        return self.folder / f"{number:05d}.safetensors"

    def _outcomes(self) -> list[tuple[int, dict[str, Any]]]:
        every = ((int(number), told) for number, told in self._index["worlds"].items())
        return sorted((number, told) for number, told in every if number < self.worlds.count)

    def _tell(self, number: int, outcome: dict[str, Any]) -> None:
        told = {**self._index["worlds"], str(number): outcome}
        self._index = {**self._index, "worlds": dict(sorted(told.items(), key=lambda item: int(item[0])))}
        write_json(self.folder / INDEX, self._index)


class PseudoSequences(Source):
    """Labelled scenes of the solved worlds of a set, of placed frames alone.

    Worlds with enough placed frames for a draw are equally likely, and so are these frames, which are drawn without
    repetition and in order. Raises InputError while worlds of the set are untried, and where none has two frames.
    """

    def __init__(self, pseudo: PseudoWorlds):
        if pseudo.missing:
            raise InputError(
                f"{pseudo.folder}: {len(pseudo.missing)} of {pseudo.worlds.count} worlds have not been tried; label "
                "the rest of them first"
            )
        self.pseudo, self._counts = pseudo, Counter[str]()
        self._most = max(pseudo.solved.values(), default=0)
        if self._most < 2:
            raise InputError(f"{pseudo.folder}: no world has two placed frames; there is nothing to learn from")

    def counts(self) -> Counter[str]:
        """Scenes, by the name of the set."""
        return self._counts

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """Square images of SIDE, no more views than were placed in the best world, and no flow."""
        return replace(wanted, views=min(wanted.views, self._most), size=(SIDE, SIDE), pairs=0)

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of what `fit` returned."""
        if wanted != self.fit(wanted, generator):
            raise ValueError(f"{self.pseudo.folder} has no scene of {wanted}; ask for what fit() returns")
        able = [number for number, placed in self.pseudo.solved.items() if placed >= wanted.views]
        picked = torch.randint(len(able), (wanted.scenes,), generator=generator).tolist()
        numbers = [able[k] for k in picked]
        order = torch.rand(wanted.scenes, self._most, generator=generator)
        placed = torch.tensor([self.pseudo.solved[number] for number in numbers])
        order = order.masked_fill(torch.arange(self._most) >= placed[:, None], torch.inf).argsort(dim=1)
        self._counts[f"pseudo-labelled scenes of {self.pseudo.worlds.name}"] += wanted.scenes
        return self.pseudo.views(numbers, order[:, : wanted.views].sort(dim=1).values)


def _read_index(path: Path, worlds: WorldSet) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: missing or damaged ({error}); make the pseudo-3D labels of {worlds.name}") from error
    expected = {"format": FORMAT, "version": VERSION, "set": worlds.name, "frames": FRAMES, "side": SIDE}
    wrong = [key for key in expected if not isinstance(found, dict) or found.get(key) != expected[key]]
    if wrong:
        raise InputError(
            f"{path}: no pseudo-3D labels of {worlds.name} in version {VERSION} (differs in {', '.join(wrong)}); "
            "choose another folder, or delete this one"
        )
    return found
