"""Every dataset that there is a reader for, by the name that configurations use."""

from difflib import get_close_matches
from pathlib import Path

from flow3r.data.datasets.arkitscenes import ARKITSCENES
from flow3r.data.datasets.blendedmvs import BLENDEDMVS
from flow3r.data.datasets.bonn import BONN
from flow3r.data.datasets.co3dv2 import CO3DV2
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.dtu import DTU
from flow3r.data.datasets.epic_kitchens import EPIC_KITCHENS
from flow3r.data.datasets.eth3d import ETH3D
from flow3r.data.datasets.habitat import HABITAT
from flow3r.data.datasets.kinetics700 import KINETICS700
from flow3r.data.datasets.kitti_depth import KITTI_DEPTH
from flow3r.data.datasets.megadepth import MEGADEPTH
from flow3r.data.datasets.megasam import MEGASAM
from flow3r.data.datasets.nrgbd import NRGBD
from flow3r.data.datasets.nyuv2 import NYUV2
from flow3r.data.datasets.omniworld import OMNIWORLD
from flow3r.data.datasets.packed import PACKED
from flow3r.data.datasets.pointodyssey import POINTODYSSEY
from flow3r.data.datasets.posed_folders import POSED_FOLDERS
from flow3r.data.datasets.re10k import RE10K
from flow3r.data.datasets.scannet import SCANNET
from flow3r.data.datasets.scannetpp import SCANNETPP
from flow3r.data.datasets.sevenscenes import SEVENSCENES
from flow3r.data.datasets.sintel import SINTEL
from flow3r.data.datasets.spatialvid import SPATIALVID
from flow3r.data.datasets.staticthings3d import STATICTHINGS3D
from flow3r.data.datasets.tum_dynamics import TUM_DYNAMICS
from flow3r.data.datasets.videos import VIDEOS
from flow3r.data.datasets.vkitti2 import VKITTI2
from flow3r.errors import InputError

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        CO3DV2,
        HABITAT,
        ARKITSCENES,
        SCANNET,
        SCANNETPP,
        MEGADEPTH,
        BLENDEDMVS,
        STATICTHINGS3D,
        OMNIWORLD,
        POINTODYSSEY,
        VKITTI2,
        KINETICS700,
        SPATIALVID,
        EPIC_KITCHENS,
        VIDEOS,
        POSED_FOLDERS,
        PACKED,
        MEGASAM,
        SINTEL,
        BONN,
        SEVENSCENES,
        NRGBD,
        TUM_DYNAMICS,
        RE10K,
        DTU,
        ETH3D,
        KITTI_DEPTH,
        NYUV2,
    )
}


def find_dataset(name: str) -> Dataset:
    """The dataset of a name. Raises InputError with the nearest names there are."""
    if name not in DATASETS:
        nearest = get_close_matches(name, DATASETS, n=3, cutoff=0.0)
        raise InputError(f"no dataset is called {name!r}; nearest are {', '.join(nearest)} (flow3r data list)")
    return DATASETS[name]


def recognise(root: Path) -> list[Dataset]:
    """The datasets whose layout a folder has: those whose readers find sequences there, but for plain videos."""
    found = []
    for dataset in DATASETS.values():
        try:
            if dataset.name != "videos" and len(dataset.sequences(root)):
                found.append(dataset)
        except InputError:
            continue
    return found
