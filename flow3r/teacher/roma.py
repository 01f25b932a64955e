"""RoMa (Edstedt et al. 2024) and RoMa v2: dense matchers for wide baselines, which estimate covisibility."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.errors import InputError
from flow3r.model.licences import Licence
from flow3r.teacher.neural import Answer, PairwiseTeacher, displacement_to, resize_images
from flow3r.teacher.weights import Package, fetch_file, read_weights

STORAGE = "https://github.com/Parskatt/storage/releases/download/roma/roma_"
DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
V2 = "https://github.com/Parskatt/RoMaV2/releases/download/v2.0.1/romav2.0.1.pt"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: its tensors go in normalised


@dataclass(frozen=True, kw_only=True)
class RomaTeacher(PairwiseTeacher):
    """The first version. Images are stretched to its squares, of which the larger refines; there the flow comes out."""

    name: ClassVar[str] = "roma"
    package: ClassVar[Package] = Package("romatch", "romatch", "pip install 'flow3r[roma]'", "MIT; DINOv2 Apache-2.0")
    licence: ClassVar[Licence] = Licence(
        "Parskatt/RoMa", "MIT; DINOv2 Apache-2.0", True, "https://github.com/Parskatt/RoMa#license"
    )

    scenes: str = "outdoor"  # "outdoor" (MegaDepth) or "indoor" (ScanNet)
    coarse: int = 560  # pixels, a multiple of 14: the package's default
    fine: int = 864  # pixels: the package's default

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scenes not in ("outdoor", "indoor"):
            raise InputError(f"RoMa has no weights for {self.scenes!r}; expected outdoor or indoor")
        if self.coarse % 14:
            raise InputError(f"RoMa's coarse size is {self.coarse}; expected a multiple of 14")

    def weight_files(self) -> Sequence[Path]:
        """Its own and DINOv2's. Raises CheckpointError if they may not be downloaded."""
        own = self.weights or fetch_file(f"{STORAGE}{self.scenes}.pth", self.licence, self.accept_license)
        return [Path(own), fetch_file(DINOV2, self.licence, self.accept_license)]

    @cached_property
    def network(self) -> Any:
        """The network on the device, which answers in one direction and needs no kernel of its own."""
        build = getattr(self.package.load(self.licence), f"roma_{self.scenes}")
        own, dinov2 = (read_weights(path) for path in self.weight_files())
        return build(
            torch.device(self.device),
            weights=own,
            dinov2_weights=dinov2,
            coarse_res=self.coarse,
            upsample_res=self.fine,
            symmetric=False,
            use_custom_corr=False,
        )

    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """Comes back as (b, h, w, 4), source and target in [-1, 1] over the image with its rims, and certainty."""
        mean, deviation = (sources.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        coarse, fine = (
            [(resize_images(images, (side, side)) - mean) / deviation for images in (sources, targets)]
            for side in (self.coarse, self.fine)
        )
        warp, certainty = self.network.match(*coarse, im_A_high_res=fine[0], im_B_high_res=fine[1])
        return Answer(displacement_to(warp[..., 2:]), certainty)


@dataclass(frozen=True, kw_only=True)
class RomaV2Teacher(PairwiseTeacher):
    """The second version. It resizes by itself and chooses its device when it is imported."""

    name: ClassVar[str] = "romav2"
    package: ClassVar[Package] = Package("romav2", "romav2", "pip install 'flow3r[roma]'", "MIT; DINOv3 License")
    licence: ClassVar[Licence] = Licence(
        "Parskatt/RoMaV2",
        "MIT; DINOv3 License (Meta's own), since its encoder is DINOv3's",
        False,
        "https://github.com/Parskatt/RoMaV2#license",
    )

    setting: str = "base"  # of the package: turbo 320, fast 512, base 640, precise 800 and 1280 pixels

    def weight_files(self) -> Sequence[Path]:
        """One checkpoint. Raises CheckpointError if it may not be downloaded, InputError for one of one's own."""
        if self.weights:
            raise InputError(f"{self.weights}: RoMa v2 loads its public weights by itself; leave `weights` out")
        return [fetch_file(V2, self.licence, self.accept_license)]

    @cached_property
    def network(self) -> Any:
        """The network, where the package put it. Raises InputError if that is not the device that was asked for."""
        package = self.package.load(self.licence)
        self.weight_files()
        network = package.RoMaV2()
        network.apply_setting(self.setting)
        place = next(network.parameters()).device
        if place.type != torch.device(self.device).type:
            raise InputError(
                f"RoMa v2 runs on {place}, where its package puts it, not on {self.device}; "
                "hide the accelerator from it (CUDA_VISIBLE_DEVICES), or ask for that device"
            )
        return network

    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """Target positions come as (b, h, w, 2) in [-1, 1] over the image with its rims, overlap as (b, h, w, 1)."""
        network = self.network
        with _highest_precision():
            found = network.match(sources, targets)
        return Answer(displacement_to(found["warp_AB"]), found["overlap_AB"][..., 0])


@contextmanager
def _highest_precision() -> Iterator[None]:
    """RoMa v2 refuses to run with any other precision of float32 products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
