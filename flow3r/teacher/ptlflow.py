"""Any optical flow model of PTLFlow by its name there: RAFT, SEA-RAFT, UniMatch, WAFT, NeuFlow and many more."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from flow3r.errors import InputError
from flow3r.model.licences import Licence
from flow3r.teacher.neural import Answer, PairwiseTeacher, resize_images, working_size
from flow3r.teacher.weights import Package, fetch_file


@dataclass(frozen=True, kw_only=True)
class PtlflowTeacher(PairwiseTeacher):
    """Flow of the model `model`, with the forward-backward check for covisibility."""

    name: ClassVar[str] = "ptlflow"
    package: ClassVar[Package] = Package(
        "ptlflow",
        "ptlflow",
        "pip install 'flow3r[ptlflow]' in an environment of its own (it brings torchvision, and with it another torch)",
        "Apache-2.0; every model in it has a licence of its own",
    )
    licence: ClassVar[Licence] = Licence(
        "ptlflow",
        "those of the model's authors; weights that PTLFlow trained itself CC BY-NC-SA 4.0",
        None,
        "https://github.com/hmorimitsu/ptlflow",
    )

    both_ways: bool = True
    model: str = "raft"
    checkpoint: str = "things"  # a name of the model's, if it has it; else its first
    long_side: int = 960  # ours: near the sizes of its tables

    def weight_files(self) -> Sequence[Path]:
        """One checkpoint. Raises InputError for an unknown model, CheckpointError if it may not be downloaded."""
        if self.weights:
            return [Path(self.weights)]
        package = self.package.load(self.licence)
        try:
            urls = getattr(package.get_model_reference(self.model), "pretrained_checkpoints", {})
        except ValueError:
            names = package.get_model_names()
            near = difflib.get_close_matches(self.model, names, n=3) or names
            raise InputError(f"PTLFlow has no model {self.model!r}; did you mean {', '.join(near)}?") from None
        if not urls:
            raise InputError(f"PTLFlow has no weights of {self.model}; give a checkpoint of your own as `weights`")
        return [fetch_file(urls.get(self.checkpoint, next(iter(urls.values()))), self._terms(), self.accept_license)]

    def _terms(self) -> Licence:
        """Accepted for each model by itself."""
        url = f"{self.licence.url}/tree/main/ptlflow/models"
        return Licence(f"ptlflow/{self.model}", self.licence.terms, self.licence.commercial, url)

    @cached_property
    def network(self) -> Any:
        """The network, in evaluation mode on the device."""
        path = str(self.weight_files()[0])
        return self.package.load(self.licence).get_model(self.model, ckpt_path=path).eval().to(self.device)

    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """Images go as (b, 2, 3, h, w) in [0, 1], BLUE first; flow comes as (b, 1, 2, h, w)."""
        stride = int(self.network.output_stride)
        size = working_size((sources.shape[2], sources.shape[3]), self.long_side, stride, stride)
        both = [resize_images(images, size).flip(1) for images in (sources, targets)]
        stacked = both[0].new_empty(len(sources), 2, 3, *size)
        stacked[:, 0], stacked[:, 1] = both
        return Answer(self.network({"images": stacked})["flows"][:, 0].movedim(1, -1))
