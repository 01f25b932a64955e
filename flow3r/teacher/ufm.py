"""UFM (Zhang et al. 2025), the paper's teacher: flow and covisibility of any two images, wide baselines included."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from flow3r.errors import InputError
from flow3r.model.licences import Licence
from flow3r.teacher.neural import Answer, PairwiseTeacher, resize_images
from flow3r.teacher.weights import Package, fetch_snapshot

FILES = ("config.json", "model.safetensors")
BASE, REFINE = "UniFlowMatchConfidence", "UniFlowMatchClassificationRefinement"
VARIANTS = {
    "base": ("infinity1096/UFM-Base", BASE),
    "refine": ("infinity1096/UFM-Refine", REFINE),
    "base-980": ("infinity1096/UFM-Base-980", BASE),
    "refine-980": ("infinity1096/UFM-Refine-980", REFINE),
    "base-dinov2l-init": ("infinity1096/UFM-Base-DINOv2L-init", BASE),
    "base-dinov2g-init": ("infinity1096/UFM-Base-DINOv2G-init", BASE),
}


@dataclass(frozen=True, kw_only=True)
class UfmTeacher(PairwiseTeacher):
    """Images are stretched to the trained size of the nearest aspect, as UFM itself would, but before it sees them: it
    brings its flow back to the size it was given without interpolation, half a pixel off at worst.

    `weights` is a folder with config.json and model.safetensors. To build the network, UniCeption loads DINOv2 through
    torch.hub: without network, fill TORCH_HOME beforehand.
    """

    name: ClassVar[str] = "ufm"
    package: ClassVar[Package] = Package(
        "uniflowmatch.models.ufm",
        "uniflowmatch",
        "git clone --recursive https://github.com/UniFlowMatch/UFM && cd UFM && pip install -e UniCeption -e . "
        "(it is not on PyPI, where `uniflow` is something else)",
        "BSD-3-Clause",
    )
    licence: ClassVar[Licence] = Licence(
        "infinity1096/UFM",
        "CC BY-NC-SA 4.0, which may reach to labels and to what learns from them",
        False,
        "https://github.com/UniFlowMatch/UFM#license",
    )

    variant: str = "base"  # ours: the paper says no more than UFM
    revision: str = "main"  # of the weights on Hugging Face

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise InputError(f"UFM has no variant {self.variant!r}; expected one of {', '.join(VARIANTS)}")

    def _folder(self) -> Path:
        if self.weights:
            return Path(self.weights)
        return fetch_snapshot(VARIANTS[self.variant][0], self.revision, FILES, self.licence, self.accept_license)

    def weight_files(self) -> Sequence[Path]:
        """The configuration and the tensors. Raises CheckpointError if they may not be downloaded."""
        return [self._folder() / name for name in FILES]

    @cached_property
    def network(self) -> Any:
        """The network, in evaluation mode on the device."""
        built = getattr(self.package.load(self.licence), VARIANTS[self.variant][1])
        return built.from_pretrained(str(self._folder())).eval().to(self.device)

    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """Images go as uint8; flow comes as (b, 2, h, w) in pixels of what went in, covisibility in [0, 1]."""
        aspect = sources.shape[2] / sources.shape[3]
        width, height = min(self.network.inference_resolution, key=lambda size: abs(size[1] / size[0] - aspect))
        first, second = ((resize_images(images, (height, width)) * 255).round().byte() for images in (sources, targets))
        result = self.network.predict_correspondences_batched(source_image=first, target_image=second)
        return Answer(result.flow.flow_output.movedim(1, -1), result.covisibility.mask)
