"""The file between prediction and score: what one method says of one sample, as an .npz that any program can write.

docs/evaluation.md states the contract for other methods' authors; `read_sample` is its validator.
"""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int

from flow3r.errors import InputError
from flow3r.files import atomic_path
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.types import Flow, Prediction

FORMAT = "flow3r-sample-1"
POINTS = ("local_points", "world_points", "depth")  # of which a file has one
HOW = "write it by numpy.savez, from arrays of numbers and texts alone"


@dataclass(frozen=True)
class Sample:
    """A method's answer for N frames of a sequence, on its own grid of H x W pixels.

    World frame and scale are arbitrary, shared by the sample's views. NaN marks a point or a camera that the method
    does not give: it is scored as a miss. `grid_from_image` maps homogeneous pixels of each upright original image to
    pixels of the grid (both with half-integer centres): a crop and a resize. `local_points` lie in each camera's frame,
    `world_points` in the world; at least one of the two is there. `flow` is of ordered pairs of the N views.
    """

    frames: Int[np.ndarray, "N"]  # indices in the sequence, in the order of the manifest
    world_from_camera: Float[np.ndarray, "N 4 4"]
    grid_from_image: Float[np.ndarray, "N 3 3"]
    local_points: Float[np.ndarray, "N H W 3"] | None = None
    world_points: Float[np.ndarray, "N H W 3"] | None = None
    intrinsics: Float[np.ndarray, "N 3 3"] | None = None
    pairs: Int[np.ndarray, "P 2"] | None = None
    flow: Float[np.ndarray, "P H W 2"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)  # method, weights, seconds, device, ...: JSON values

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the grid."""
        points = self.local_points if self.local_points is not None else self.world_points
        return points.shape[1:3]

    def prediction(self) -> Prediction:
        """As a batch of one scene, in single precision but for the poses.

        The world's origin is moved among the cameras, since single precision loses what lies far from it: to the
        median of the finite camera centres, which one wild camera does not carry away.
        """
        poses = torch.from_numpy(self.world_from_camera.astype(np.float64))[None]
        finite = np.isfinite(self.world_from_camera).all((1, 2))
        origin = torch.zeros(3, dtype=torch.float64)
        if finite.any():
            origin = torch.from_numpy(np.median(self.world_from_camera[finite, :3, 3], axis=0))
        poses[..., :3, 3] -= origin
        local = world = None
        if self.local_points is not None:
            local = torch.from_numpy(self.local_points.astype(np.float32))[None]
        if self.world_points is not None:
            world = (torch.from_numpy(self.world_points.astype(np.float64))[None] - origin).float()
        flow = None
        if self.flow is not None:
            pairs = torch.from_numpy(self.pairs.astype(np.int64))[None]
            flow = Flow(pairs, torch.from_numpy(np.asarray(self.flow, dtype=np.float32))[None], None)
        return Prediction(
            local_points=transform_maps(invert(poses).float(), world) if local is None else local,
            world_points=transform_maps(poses.float(), local) if world is None else world,
            world_from_camera=poses,
            intrinsics=None if self.intrinsics is None else torch.from_numpy(self.intrinsics).float()[None],
            flow=flow,
        )


def write_sample(path: str | Path, sample: Sample) -> None:
    """Write the file, atomically: points as float32, cameras as float64, flow as float16."""
    arrays = {
        "format": np.array(FORMAT),
        "frames": sample.frames.astype(np.int64),
        "world_from_camera": sample.world_from_camera.astype(np.float64),
        "grid_from_image": sample.grid_from_image.astype(np.float64),
        "facts": np.array(json.dumps(dict(sample.facts), sort_keys=True)),
    }
    kinds = {"local_points": np.float32, "world_points": np.float32, "intrinsics": np.float64, "pairs": np.int64}
    for name, kind in (kinds | {"flow": np.float16}).items():
        if getattr(sample, name) is not None:
            arrays[name] = np.asarray(getattr(sample, name)).astype(kind)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_sample(path: str | Path) -> Sample:
    """Read and check a file. Points may be given as `depth` with `intrinsics` instead.

    Raises InputError, naming the file and all that is wrong in it, if it does not keep the contract.
    """
    found = _arrays(path)
    wrong = list(_faults(found))
    if wrong:
        raise InputError(f"{path}: does not keep the contract of docs/evaluation.md: " + "; ".join(wrong))
    local = found.get("local_points")
    if local is None and "depth" in found:
        depth, intrinsics = (torch.from_numpy(found[name].astype(np.float64)) for name in ("depth", "intrinsics"))
        local = unproject(torch.where(depth > 0, depth, torch.nan), intrinsics).numpy()
    known = {name: found.get(name) for name in ("world_points", "intrinsics", "pairs", "flow")}
    return Sample(
        frames=found["frames"].astype(np.int64),
        world_from_camera=found["world_from_camera"].astype(np.float64),
        grid_from_image=found["grid_from_image"].astype(np.float64),
        local_points=local,
        facts=json.loads(str(found["facts"])) if "facts" in found else {},
        **known,
    )


def read_facts(path: str | Path) -> Mapping[str, Any]:
    """The facts of a file alone. Raises InputError for a file that cannot be read, or that has no facts."""
    facts = _object(_arrays(path, ("facts",)).get("facts", ""))
    if facts is None:
        raise InputError(f"{path}: not a sample with facts: 'facts' is no JSON object")
    return facts


def _arrays(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file, or those of these names that it has. Raises InputError for anything but an .npz of plain
    arrays; nothing in the file is ever executed."""
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                raise InputError(f"{path}: not a readable .npz of arrays, but a file of another format: {HOW}")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files if names is None or name in names}
    except OSError as error:
        raise InputError(f"{path}: not a readable .npz of arrays: {error}") from error
    except (BadZipFile, EOFError, KeyError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz of arrays, but torn or damaged ({error}): {HOW}") from error
    except ValueError as error:  # numpy's own words propose to load the file all the same
        raise InputError(
            f"{path}: not a readable .npz of arrays: objects or damaged arrays are in it: {HOW}"
        ) from error
    strange = [name for name, array in found.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise InputError(f"{path}: not a readable .npz of arrays: {', '.join(strange)} is no array: {HOW}")
    return found


def _object(text: np.ndarray | str) -> dict[str, Any] | None:
    """The JSON object that a text says; None if it says none."""
    try:
        said = json.loads(str(text))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _faults(found: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with the arrays of a file, in words."""
    if str(found.get("format", "absent")) != FORMAT:
        yield f"'format' is {found.get('format', 'absent')!s}, expected {FORMAT}"
    missing = [name for name in ("frames", "world_from_camera", "grid_from_image") if name not in found]
    if missing or not any(name in found for name in POINTS):
        yield "missing: " + ", ".join(missing or [f"one of {', '.join(POINTS)}"])
        return
    count = found["frames"].shape[0] if found["frames"].ndim == 1 else -1
    points = next(found[name] for name in POINTS if name in found)
    grid = points.shape[1:3]
    expected = {
        "frames": (count,),
        "world_from_camera": (count, 4, 4),
        "grid_from_image": (count, 3, 3),
        "local_points": (count, *grid, 3),
        "world_points": (count, *grid, 3),
        "depth": (count, *grid),
        "intrinsics": (count, 3, 3),
    }
    if "flow" in found or "pairs" in found:
        pairs = found["pairs"].shape[0] if "pairs" in found and found["pairs"].ndim == 2 else -1
        expected |= {"pairs": (pairs, 2), "flow": (pairs, *grid, 2)}
    sound = set()
    for name, shape in expected.items():
        kind, said = ("iu", "integers") if name in ("frames", "pairs") else ("f", "floats")
        if name not in found:
            if name in ("pairs", "flow"):
                yield f"'{name}' is missing: flow needs both 'flow' and 'pairs'"
        elif found[name].shape != shape or -1 in shape:
            yield f"'{name}' is {found[name].shape}, expected {shape}"
        elif found[name].dtype.kind not in kind:
            yield f"'{name}' holds {found[name].dtype}, expected {said}"
        else:
            sound.add(name)
    if "depth" in found and "intrinsics" not in found:
        yield "'depth' needs 'intrinsics'"
    yield from _faulty_values({name: found[name] for name in sound}, count)
    if "facts" in found and _object(found["facts"]) is None:
        yield "'facts' is no JSON object"


def _faulty_values(found: Mapping[str, np.ndarray], count: int) -> Iterator[str]:
    """What is wrong with the values of arrays of the right shapes and types, of `count` views."""
    if "world_from_camera" in found:
        poses = found["world_from_camera"]
        last = poses[np.isfinite(poses).all((1, 2)), 3]
        if not np.allclose(last, [0, 0, 0, 1], rtol=0, atol=1e-6):
            yield "'world_from_camera' has poses whose last row is not (0, 0, 0, 1)"
    if "grid_from_image" in found:
        grids = found["grid_from_image"]
        if not np.isfinite(grids).all():
            yield "'grid_from_image' is not finite"
        elif not _crops_and_resizes(grids):
            yield "'grid_from_image' is no crop and resize: expected [[a, 0, b], [0, c, d], [0, 0, 1]] with a, c > 0"
    if "pairs" in found and not ((found["pairs"] >= 0) & (found["pairs"] < count)).all():
        yield f"'pairs' are not of views 0..{count - 1}"


def _crops_and_resizes(grids: Float[np.ndarray, "N 3 3"]) -> bool:
    """Whether all are [[a, 0, b], [0, c, d], [0, 0, 1]] with a, c > 0."""
    fixed = grids[:, [0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
    sides = grids[:, [0, 1], [0, 1]]
    return bool((sides > 0).all() and np.allclose(fixed, [0, 0, 0, 0, 1], rtol=0, atol=1e-9))
