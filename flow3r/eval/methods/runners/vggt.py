"""VGGT (Wang et al. 2025), the authors' code; flow3r runs the same weights itself (`flow3r eval run --methods`).

Read in github.com/facebookresearch/vggt: demo_gradio.py, vggt/utils/{load_fn,pose_enc,geometry}.py, models/vggt.py.
Extrinsics are camera-from-world, OpenCV axes, and the world is the first camera. Points are, as its demo and its paper
prefer, those of the depth maps, which the package itself moves to the world; or those of its point head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import vggt_grid
from flow3r.eval.methods.runners.outside import (
    OutsideMethod,
    half_precision,
    main,
    parser_of,
    placed_sample,
    to_numpy,
)
from flow3r.eval.samples import Sample
from flow3r.geometry.se3 import invert
from flow3r.model.licences import CHECKPOINTS, Licence
from flow3r.teacher.weights import Package, read_weights

POINTS = {"depth": "world_points_from_depth", "pointmap": "world_points"}  # its demo's two prediction modes


def sample_from_native(
    predictions: Mapping[str, Any], sizes: Sequence[tuple[int, int]], points: str = "depth"
) -> Sample:
    """A sample of its demo's predictions: extrinsic (N 3 4), intrinsic (N 3 3), world_points_from_depth and
    world_points (N H W 3). `sizes` (H, W) of the original images.
    """
    camera_from_world = to_numpy(predictions["extrinsic"])
    last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(camera_from_world), 1, 4))
    square = torch.from_numpy(np.concatenate([camera_from_world, last], axis=1))
    return placed_sample(
        [vggt_grid(size) for size in sizes],
        invert(square).numpy(),
        world_points=to_numpy(predictions[POINTS[points]]),
        intrinsics=to_numpy(predictions["intrinsic"]),
    )


@dataclass(frozen=True, kw_only=True)
class Vggt(OutsideMethod):
    """One forward pass."""

    name: ClassVar[str] = "vggt"
    package: ClassVar[Package] = Package(
        "vggt", "vggt", "pip install git+https://github.com/facebookresearch/vggt", "VGGT License"
    )
    licence: ClassVar[Licence] = CHECKPOINTS["facebook/vggt-1b"]

    points: str = "depth"  # or "pointmap"

    @property
    def settings(self) -> dict[str, Any]:
        """Which head the points come from."""
        return {"points": self.points}

    @cached_property
    def network(self) -> Any:
        model = self.module("models.vggt").VGGT
        if Path(self._weights).is_file():
            network = model()
            network.load_state_dict(read_weights(Path(self._weights)))
        else:
            network = model.from_pretrained(self._weights)
        return network.to(self.torch_device).eval()

    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """The demo's predictions, by the package's own functions."""
        load = self.module("utils.load_fn").load_and_preprocess_images
        images = load([str(path) for path in paths]).to(self.torch_device)
        with torch.no_grad(), half_precision(self.torch_device):
            predictions = dict(self.network(images))
        decode = self.module("utils.pose_enc").pose_encoding_to_extri_intri
        cameras = [values[0] for values in decode(predictions["pose_enc"], images.shape[-2:])]
        extrinsic, intrinsic = (camera.detach().cpu().numpy() for camera in cameras)
        move = self.module("utils.geometry").unproject_depth_map_to_point_map
        native = {
            "extrinsic": extrinsic,
            "intrinsic": intrinsic,
            "world_points_from_depth": move(predictions["depth"][0].float().cpu().numpy(), extrinsic, intrinsic),
            "world_points": predictions["world_points"][0],
        }
        return sample_from_native(native, sizes, self.points)


if __name__ == "__main__":
    parser = parser_of(Vggt)
    parser.add_argument("--points", choices=tuple(POINTS), default="depth", help="which head they come from")
    raise SystemExit(main(Vggt, parser))
