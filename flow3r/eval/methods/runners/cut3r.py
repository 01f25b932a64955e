"""CUT3R (Wang et al. 2025): frames one after the other, in their order.

Read in github.com/CUT3R/CUT3R: demo.py (what a view is, and how its answer is read), src/dust3r/inference.py; in copies
of it, src/dust3r/utils/image.py and utils/camera.py. The pose encoding is camera-to-world: a translation and a
quaternion whose real part is first. As in its demo, points are those of each frame's own view, moved by its pose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from flow3r.errors import CheckpointError
from flow3r.eval.methods import Pairs
from flow3r.eval.methods.runners.grids import dust3r_grid
from flow3r.eval.methods.runners.outside import OutsideMethod, main, parser_of, placed_sample, to_numpy
from flow3r.eval.samples import Sample
from flow3r.geometry.se3 import from_parts, rotation_from_quaternion
from flow3r.model.licences import Licence
from flow3r.teacher.weights import Package


def sample_from_native(outputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]], long_side: int = 512) -> Sample:
    """A sample of `inference`'s outputs: for each of outputs["pred"] its pts3d_in_self_view (1 H W 3) and its
    camera_pose (1 7). `sizes` (H, W) of the original images.
    """
    encoded = torch.from_numpy(np.concatenate([to_numpy(view["camera_pose"]) for view in outputs["pred"]]))
    poses = from_parts(rotation_from_quaternion(encoded[:, 3:]), encoded[:, :3])
    return placed_sample(
        [dust3r_grid(size, long_side) for size in sizes],
        poses.numpy(),
        local_points=np.concatenate([to_numpy(view["pts3d_in_self_view"]) for view in outputs["pred"]]),
    )


def views_of(images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Loaded images as its model reads them: images alone, no rays, the state updated by each and never reset."""
    return [
        {
            "img": image["img"],
            "ray_map": torch.full((len(image["img"]), 6, *image["img"].shape[-2:]), torch.nan),
            "true_shape": torch.as_tensor(image["true_shape"]),
            "idx": number,
            "instance": str(number),
            "camera_pose": torch.eye(4)[None],
            "img_mask": torch.tensor([True]),
            "ray_mask": torch.tensor([False]),
            "update": torch.tensor([True]),
            "reset": torch.tensor([False]),
        }
        for number, image in enumerate(images)
    ]


@dataclass(frozen=True, kw_only=True)
class Cut3r(OutsideMethod):
    """One pass over the frames. Its package is called dust3r too: have it alone on the path."""

    name: ClassVar[str] = "cut3r"
    package: ClassVar[Package] = Package(
        "dust3r",
        "cut3r",
        "git clone https://github.com/CUT3R/CUT3R, its requirements, and PYTHONPATH=<that folder>/src, without DUSt3R",
        "CC BY-NC-SA 4.0",
    )
    licence: ClassVar[Licence] = Licence(
        "cut3r_512_dpt_4_64.pth", "CC BY-NC-SA 4.0", False, "https://github.com/CUT3R/CUT3R"
    )

    long_side: int = 512

    @property
    def settings(self) -> dict[str, Any]:
        """Of the loader."""
        return {"long_side": self.long_side}

    @cached_property
    def network(self) -> Any:
        if not Path(self.weights or ".").is_file():
            raise CheckpointError(
                f"--weights {self.weights or 'was not given'}: expected {self.licence.hub_id} ({self.licence.url})"
            )
        model = self.module("model").ARCroco3DStereo
        return model.from_pretrained(self._weights).to(self.torch_device).eval()

    def answer(self, paths: list[Path], sizes: list[tuple[int, int]], pairs: Pairs) -> Sample:
        """The answers of the pass, view by view."""
        images = self.module("utils.image").load_images([str(path) for path in paths], size=self.long_side)
        outputs, _ = self.module("inference").inference(views_of(images), self.network, self.torch_device)
        return sample_from_native(outputs, sizes, self.long_side)


if __name__ == "__main__":
    parser = parser_of(Cut3r)
    parser.add_argument("--long-side", type=int, default=512, help="of the images: 512, or 224 for the linear model")
    raise SystemExit(main(Cut3r, parser))
