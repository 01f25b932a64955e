"""RAFT (Teed and Deng 2020) as torchvision has it: flow alone, whose covisibility is the forward-backward check."""

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
from flow3r.teacher.weights import Package, fetch_file, read_weights

STRIDE, LEAST = 8, 128  # of torchvision's RAFT: what both sides are multiples of, and their least
NETWORKS = {"large": ("raft_large", "Raft_Large_Weights"), "small": ("raft_small", "Raft_Small_Weights")}


@dataclass(frozen=True, kw_only=True)
class RaftTeacher(PairwiseTeacher):
    """For small baselines. Covisibility is exp(-e / 2) of the forward-backward error e, where it holds."""

    name: ClassVar[str] = "raft"
    package: ClassVar[Package] = Package(
        "torchvision.models.optical_flow",
        "torchvision",
        "pip install torchvision, of the build that fits the installed torch",
        "BSD-3-Clause",
    )
    licence: ClassVar[Licence] = Licence(
        "torchvision/raft",
        "released with torchvision (BSD-3-Clause); the terms of FlyingChairs, FlyingThings3D, Sintel, KITTI and HD1K, "
        "on which they were trained, may apply",
        None,
        "https://docs.pytorch.org/vision/stable/models/raft.html",
    )

    both_ways: bool = True
    network_size: str = "large"  # "large" or "small"
    checkpoint: str = "DEFAULT"  # a name of torchvision's: by default C_T_SKHT_V2 of the large, C_T_V2 of the small
    updates: int = 12  # of the flow: torchvision's default
    long_side: int = 768  # ours: of the training crops of the last stages

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network_size not in NETWORKS:
            raise InputError(f"RAFT has no size {self.network_size!r}; expected one of {', '.join(NETWORKS)}")

    def weight_files(self) -> Sequence[Path]:
        """One checkpoint. Raises InputError for an unknown name, CheckpointError if it may not be downloaded."""
        if self.weights:
            return [Path(self.weights)]
        names = getattr(self.package.load(self.licence), NETWORKS[self.network_size][1]).__members__
        if self.checkpoint not in names:
            raise InputError(f"RAFT has no weights {self.checkpoint!r}; expected one of {', '.join(names)}")
        return [fetch_file(names[self.checkpoint].url, self.licence, self.accept_license)]

    @cached_property
    def network(self) -> Any:
        """The network, in evaluation mode on the device."""
        build = getattr(self.package.load(self.licence), NETWORKS[self.network_size][0])
        network = build(weights=None, progress=False)
        network.load_state_dict(read_weights(self.weight_files()[0]))
        return network.eval().to(self.device)

    def match(self, sources: Float[Tensor, "b 3 H W"], targets: Float[Tensor, "b 3 H W"]) -> Answer:
        """Images go in [-1, 1]; flow comes as (b, 2, h, w), the last of the list being the most refined."""
        size = working_size((sources.shape[2], sources.shape[3]), self.long_side, STRIDE, LEAST)
        first, second = (2 * resize_images(images, size) - 1 for images in (sources, targets))
        flows = self.network(first.contiguous(), second.contiguous(), num_flow_updates=self.updates)
        return Answer(flows[-1].movedim(1, -1))
