"""Flow3r, the authors' code; flow3r runs the same weights itself (`flow3r eval run --methods`).

Read in github.com/Kidrauh/flow3r: gradio_app.py, and for the flow head, which it never calls, the forward pass. Their
package has the name of ours, so that it runs in a process of its own (`flow3r_worker.py`), in their environment.
Conventions are those of π³; flow is absolute target coordinates, +1 to -1 between the first and last pixels' centres.
"""

import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from flow3r.errors import CheckpointError, InputError
from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import pi3_grid
from flow3r.eval.methods.runners.outside import OutsideMethod, main, parser_of, placed_sample
from flow3r.eval.samples import Sample
from flow3r.files import sha256_of_file
from flow3r.geometry.camera import pixel_grid
from flow3r.geometry.flow import pixels_from_ndc
from flow3r.model.licences import CHECKPOINTS, Licence
from flow3r.teacher.weights import Package

MODEL = Path("flow3r") / "models" / "flow3r.py"  # in a checkout


def sample_from_native(output: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int]], pairs: Pairs) -> Sample:
    """A sample of the model's output: local_points (1 N H W 3), camera_poses (1 N 4 4), flow (1 P H W 2) of `pairs`.

    `sizes` (H, W) of the original images.
    """
    flow = None
    if pairs:
        target = pixels_from_ndc(torch.from_numpy(output["flow"][0].astype(np.float64)))
        flow = (target - pixel_grid(*target.shape[1:3], dtype=target.dtype)).numpy()
    return placed_sample(
        [pi3_grid(sizes[0], size) for size in sizes],
        output["camera_poses"][0],
        local_points=output["local_points"][0].astype(np.float64),
        pairs=np.array(pairs) if pairs else None,
        flow=flow,
    )


@dataclass(frozen=True, kw_only=True)
class Flow3rOfficial(OutsideMethod):
    """One forward pass in the worker, with the flow of the pairs that are asked for."""

    name: ClassVar[str] = "flow3r_official"
    package: ClassVar[Package] = Package(
        "flow3r", "flow3r", "git clone https://github.com/Kidrauh/flow3r, and its requirements for --python", "MIT"
    )
    licence: ClassVar[Licence] = CHECKPOINTS["clara211111/flow3r"]

    checkout: str = ""  # the folder that git clone made
    python: str = ""  # the interpreter with their requirements; by default this one

    @property
    def version(self) -> str:
        """The hash of their model's source. Raises InputError where the checkout has none."""
        path = Path(self.checkout or ".") / MODEL
        if not self.checkout or not path.is_file():
            raise InputError(f"--checkout {self.checkout or 'was not given'}: no {MODEL}; {self.package.install}")
        return sha256_of_file(path)

    @cached_property
    def _worker(self) -> subprocess.Popen:
        if not Path(self.weights or ".").is_file():
            raise CheckpointError(
                f"--weights {self.weights or 'was not given'}: expected flow3r.bin ({self.licence.url})"
            )
        worker = Path(__file__).with_name("flow3r_worker.py")
        said = [self.python or sys.executable, worker, Path(self.checkout).resolve(), self.weights, self.torch_device]
        process = subprocess.Popen(list(map(str, said)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        weakref.finalize(self, process.communicate)  # the end of its input ends it
        return process

    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """Raises InputError with what the worker says went wrong."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "output.npz"
            asked = {"images": str(paths[0].parent), "pairs": [list(pair) for pair in pairs], "out": str(path)}
            self._worker.stdin.write(json.dumps(asked) + "\n")
            self._worker.stdin.flush()
            answer = self._worker.stdout.readline()
            error = json.loads(answer)["error"] if answer else "it ended (see its messages above)"
            if error:
                raise InputError(f"the authors' Flow3r failed: {error}")
            with np.load(path, allow_pickle=False) as output:
                return sample_from_native(dict(output), sizes, pairs)


if __name__ == "__main__":
    parser = parser_of(Flow3rOfficial)
    parser.add_argument("--checkout", required=True, help="the folder that git clone made")
    parser.add_argument("--python", default="", help="the interpreter with their requirements; by default this one")
    raise SystemExit(main(Flow3rOfficial, parser))
