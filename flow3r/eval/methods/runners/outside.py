"""What all outside methods share: frames as image files, their packages and weights, and the loop over a manifest."""

import argparse
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.frame import Frame
from flow3r.errors import Flow3rError, InputError
from flow3r.eval.benchmarks import find_benchmark
from flow3r.eval.benchmarks.manifests import check_manifest, read_manifest, write_manifest
from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import Grid
from flow3r.eval.predict import predict
from flow3r.eval.run import manifest_path, samples_folder
from flow3r.eval.samples import Sample
from flow3r.files import sha256_of_json
from flow3r.model.licences import Licence, accepting_licences, agree_to
from flow3r.nn.precision import choose_device
from flow3r.teacher.weights import Package, sha256_of_files

VERSION = 1  # of what is done with the methods' answers: raise it with every change of the samples


@dataclass(frozen=True, kw_only=True)
class OutsideMethod(ABC):
    """A `Method` whose package is installed beside flow3r. It is imported, and its weights are loaded, when it is used.

    `weights`: a file, or the public ones by the name that the package itself downloads them by, once their licence is
    accepted.
    """

    name: ClassVar[str]
    package: ClassVar[Package]
    licence: ClassVar[Licence]

    weights: str = ""
    device: str = ""  # by default CUDA where there is one
    accept_license: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Weights by their SHA-256, or by name, the package's version, and the settings."""
        own = Path(self.weights)
        weights = sha256_of_files([own]) if self.weights and own.is_file() else self._weights
        return sha256_of_json([VERSION, self.name, weights, self.version, self.settings])

    @property
    def version(self) -> str:
        """Of the package. Raises InputError where it cannot be imported."""
        self.module()
        return self.package.version()

    @property
    def settings(self) -> dict[str, Any]:
        """What else changes the answers."""
        return {}

    def __call__(self, frames: Sequence[Frame], pairs: Pairs) -> Sample:
        """Raises InputError without the package, CheckpointError for a licence that was not accepted."""
        if not Path(self.weights or ".").is_file():
            agree_to(self.licence, self.accept_license)
        sizes = [frame.image.shape[:2] for frame in frames]
        with image_files(frames) as paths:
            return self.answer(paths, sizes, pairs)

    @abstractmethod
    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """The sample of the images in these files, which lie in one folder in their order."""

    @property
    def torch_device(self) -> torch.device:
        return choose_device(self.device or None)

    @property
    def _weights(self) -> str:
        return self.weights or self.licence.hub_id

    def module(self, name: str = "") -> ModuleType:
        """A module of the package, by its name within it. Raises InputError if it cannot be imported."""
        full = f"{self.package.module}.{name}" if name else self.package.module
        whole = Package(full, self.package.distribution, self.package.install, self.package.licence)
        return whole.load(self.licence)


@contextmanager
def image_files(frames: Sequence[Frame]) -> Iterator[list[Path]]:
    """The frames as PNG files, nothing lost, in one folder and in the order of their names."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:06d}.png" for number in range(len(frames))]
        for path, frame in zip(paths, frames):
            Image.fromarray(frame.image).save(path)
        yield paths


def placed_sample(
    grids: Sequence[Grid],
    world_from_camera: Float[np.ndarray, "N 4 4"],
    *,
    local_points: Float[np.ndarray, "N H W 3"] | None = None,
    world_points: Float[np.ndarray, "N H W 3"] | None = None,
    intrinsics: Float[np.ndarray, "N 3 3"] | None = None,
    **rest: Any,
) -> Sample:
    """A sample on the grids that the method's loader is known to make.

    Raises InputError where the answer has another grid: that loader, or its version, follows another rule.
    """
    sizes = {grid.size for grid in grids}
    if len(sizes) > 1:
        raise InputError(f"frames of several shapes ({sorted(sizes)} once loaded): a sample has one grid")
    points = local_points if local_points is not None else world_points
    expected = (len(grids), *grids[0].size, 3)
    if points.shape != expected:
        raise InputError(
            f"points are {points.shape}, expected {expected}: the package loads images by another rule than the one "
            "that this runner knows, so that nobody could say which pixels its points belong to"
        )
    return Sample(
        frames=np.arange(len(grids)),
        world_from_camera=world_from_camera.astype(np.float64),
        grid_from_image=np.stack([grid.from_image for grid in grids]),
        local_points=local_points,
        world_points=world_points,
        intrinsics=None if intrinsics is None else intrinsics.astype(np.float64),
        **rest,
    )


def to_numpy(tensor: Any) -> np.ndarray:
    """Of a tensor on any device, or of an array: in float64."""
    values = tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
    return values.astype(np.float64)


def half_precision(device: torch.device) -> torch.autocast:
    """The autocast of the VGGT and π³ demos: bfloat16, or float16 on older GPUs; none on a CPU."""
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    return torch.autocast(device.type, torch.bfloat16 if recent else torch.float16, enabled=device.type == "cuda")


def parser_of(method: type[OutsideMethod]) -> argparse.ArgumentParser:
    """The options that every runner has."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {method.__module__}",
        description=f"Samples of {method.name} on a manifest. Code: {method.package.licence}. Weights: "
        f"{method.licence}. Install: {method.package.install}",
    )
    parser.add_argument("--manifest", required=True, type=Path, help="<benchmark>.jsonl (flow3r eval manifest)")
    parser.add_argument("--root", required=True, type=Path, help="the folder that holds one folder for each dataset")
    parser.add_argument("--out", required=True, type=Path, help="the folder of the run; samples go to OUT/samples")
    parser.add_argument("--weights", default="", help=f"a file; by default {method.licence.hub_id}")
    parser.add_argument("--device", default="", help="by default cuda where there is one")
    parser.add_argument("--accept-license", action="store_true", help="of the weights, after reading it")
    return parser


def main(method: type[OutsideMethod], parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run a method by its command line. Returns 0 if every sample is there, 1 if some failed, 2 if none could run."""
    options = vars(parser.parse_args(arguments))
    manifest, root, out = (options.pop(key) for key in ("manifest", "root", "out"))
    try:
        with accepting_licences(options["accept_license"]):
            return run_manifest(method(**options), manifest, root, out)
    except Flow3rError as error:
        print(f"error: {error}")
        return 2


def run_manifest(method: OutsideMethod, manifest_file: Path, root: Path, out: Path) -> int:
    """Write the missing samples of a manifest; say what became of each. Returns 1 if any failed, otherwise 0.

    Raises InputError for data that are not those of the manifest, and without the package.
    """
    print(f"{method.name}, fingerprint {method.fingerprint[:12]}; weights: {method.licence}", flush=True)
    manifest = read_manifest(manifest_file)
    benchmark = find_benchmark(manifest.benchmark)
    sequences = benchmark.select(root).sequences
    check_manifest(manifest, sequences)
    kept = manifest_path(out, manifest.benchmark)
    if not kept.is_file():
        write_manifest(kept, manifest)
    elif read_manifest(kept) != manifest:
        raise InputError(f"{kept}: the run in {out} has another manifest than {manifest_file}; give another --out")
    failed = 0
    for done in predict(method, manifest.draws, sequences, samples_folder(out, method.name, manifest.benchmark)):
        failed += bool(done.reason)
        said = f"failed: {done.reason}" if done.reason else "made" if done.made else "there already"
        print(f"{done.draw.sequence} {done.draw.draw}: {said}", flush=True)
    print(f"{len(manifest.draws) - failed} of {len(manifest.draws)} samples of {method.name} in {out}")
    return int(failed > 0)
