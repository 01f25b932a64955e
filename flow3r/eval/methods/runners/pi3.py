"""π³ (Wang et al. 2025), the authors' code; flow3r runs the same weights itself (`flow3r eval run --methods`).

Read in github.com/yyfz/Pi3: example.py, pi3/utils/basic.py, pi3/models/pi3.py. Poses are camera-to-world, local points
lie in each camera's frame, OpenCV axes; scale and world are arbitrary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import pi3_grid
from flow3r.eval.methods.runners.outside import (
    OutsideMethod,
    half_precision,
    main,
    parser_of,
    placed_sample,
    to_numpy,
)
from flow3r.eval.samples import Sample
from flow3r.model.licences import CHECKPOINTS, Licence
from flow3r.teacher.weights import Package, read_weights


def sample_from_native(output: Mapping[str, Any], sizes: Sequence[tuple[int, int]]) -> Sample:
    """A sample of the model's output: local_points (1 N H W 3) and camera_poses (1 N 4 4).

    `sizes` (H, W) of the original images.
    """
    return placed_sample(
        [pi3_grid(sizes[0], size) for size in sizes],
        to_numpy(output["camera_poses"])[0],
        local_points=to_numpy(output["local_points"])[0],
    )


@dataclass(frozen=True, kw_only=True)
class Pi3(OutsideMethod):
    """One forward pass."""

    name: ClassVar[str] = "pi3"
    package: ClassVar[Package] = Package(
        "pi3", "pi3", "git clone https://github.com/yyfz/Pi3, its requirements, and PYTHONPATH=<that folder>", "BSD"
    )
    licence: ClassVar[Licence] = CHECKPOINTS["yyfz233/pi3"]

    @cached_property
    def network(self) -> Any:
        model = self.module("models.pi3").Pi3
        path = Path(self._weights)
        if path.is_file():
            network = model()
            network.load_state_dict(_safe(path) if path.suffix == ".safetensors" else read_weights(path))
        else:
            network = model.from_pretrained(self._weights)
        return network.to(self.torch_device).eval()

    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """The example's prediction; nothing is masked by confidence."""
        images = self.module("utils.basic").load_images_as_tensor(str(paths[0].parent), interval=1)
        with torch.no_grad(), half_precision(self.torch_device):
            output = self.network(images.to(self.torch_device)[None])
        return sample_from_native(output, sizes)


def _safe(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


if __name__ == "__main__":
    raise SystemExit(main(Pi3, parser_of(Pi3)))
