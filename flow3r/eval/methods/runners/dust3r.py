"""DUSt3R (Wang et al. 2024), with its own global alignment of all pairs.

Read in github.com/naver/dust3r: dust3r/utils/image.py, image_pairs.py, inference.py, model.py, cloud_opt/__init__.py,
base_opt.py, optimizer.py, pair_viewer.py; settings of its README. Poses are camera-to-world, points lie in the world,
axes are OpenCV's. Its pixel grid has integer centres: its principal point (W/2, H/2) is ours half a pixel further on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import dust3r_grid
from flow3r.eval.methods.runners.outside import OutsideMethod, main, parser_of, placed_sample, to_numpy
from flow3r.eval.samples import Sample
from flow3r.model.licences import Licence
from flow3r.teacher.weights import Package

ITERATIONS, SCHEDULE, RATE = 300, "cosine", 0.01  # of the alignment: its README


def sample_from_native(scene: Any, sizes: Sequence[tuple[int, int]], long_side: int = 512) -> Sample:
    """A sample of an aligned scene: its get_im_poses() (N 4 4), get_pts3d() (N times H W 3), get_intrinsics() (N 3 3).

    `sizes` (H, W) of the original images.
    """
    intrinsics = to_numpy(scene.get_intrinsics())
    intrinsics[:, :2, 2] += 0.5
    return placed_sample(
        [dust3r_grid(size, long_side) for size in sizes],
        to_numpy(scene.get_im_poses()),
        world_points=np.stack([to_numpy(points) for points in scene.get_pts3d()]),
        intrinsics=intrinsics,
    )


@dataclass(frozen=True, kw_only=True)
class Dust3r(OutsideMethod):
    """All ordered pairs, aligned from a minimum spanning tree; two images are answered without optimisation."""

    name: ClassVar[str] = "dust3r"
    package: ClassVar[Package] = Package(
        "dust3r",
        "dust3r",
        "git clone --recursive https://github.com/naver/dust3r, its requirements, and PYTHONPATH=<that folder>",
        "CC BY-NC-SA 4.0",
    )
    licence: ClassVar[Licence] = Licence(
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt", "CC BY-NC-SA 4.0", False, "https://github.com/naver/dust3r"
    )

    long_side: int = 512

    @property
    def settings(self) -> dict[str, Any]:
        """Of the loader and the alignment."""
        return {"long_side": self.long_side, "niter": ITERATIONS, "schedule": SCHEDULE, "lr": RATE}

    @cached_property
    def network(self) -> Any:
        model = self.module("model").AsymmetricCroCo3DStereo
        return model.from_pretrained(self._weights).to(self.torch_device).eval()

    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """One scene of all images."""
        alignment = self.module("cloud_opt")
        images = self.module("utils.image").load_images([str(path) for path in paths], size=self.long_side)
        asked = self.module("image_pairs").make_pairs(images, scene_graph="complete", prefilter=None, symmetrize=True)
        output = self.module("inference").inference(asked, self.network, self.torch_device, batch_size=1)
        modes = alignment.GlobalAlignerMode
        mode = modes.PointCloudOptimizer if len(paths) > 2 else modes.PairViewer
        scene = alignment.global_aligner(output, device=self.torch_device, mode=mode)
        if len(paths) > 2:
            scene.compute_global_alignment(init="mst", niter=ITERATIONS, schedule=SCHEDULE, lr=RATE)
        return sample_from_native(scene, sizes, self.long_side)


if __name__ == "__main__":
    parser = parser_of(Dust3r)
    parser.add_argument("--long-side", type=int, default=512, help="of the images: 512, or 224 for the linear model")
    raise SystemExit(main(Dust3r, parser))
