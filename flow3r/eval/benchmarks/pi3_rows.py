"""π³'s own benchmarks as rows, to check readers and metrics against numbers that are published for public weights.

Sequences, strides and measures are those of its public evaluation branch. These of its settings are absent, so that
numbers of the same weights come near the published ones, but need not agree:

* Random frames. π³ draws them from one generator in the order of its lists, and feeds them unsorted; here they are
  drawn by our hash and are in order of time.
* Intrinsics. π³ scales K by one factor although images are stretched by two (a focal length wrong by 0.9 % in x at
  640 x 480); here each axis has its own.
* Grid. π³ resamples predicted pointmaps bilinearly to the truth's grid, which makes points in mid-air at edges of
  depth; here the truth is brought to the prediction's grid, from the nearest pixel.
* Poses of 7-Scenes. π³ takes the release's as the colour camera's, which are the depth camera's: 2.6 cm and 0.7 degrees
  away. Here they are moved by the calibration.
* Frames of Bonn. MonST3R's preparation pairs colour, depth and poses by their places in three lists; here by time.
* Depth. π³ lowers aligned depth to 70 on Sintel alone; here to the `farthest` of every row that has one, so also on
  Bonn. Scale and shift are the exact minimum, where π³ takes at most 1000 steps towards it.
* Single images. π³'s scale of each image by its medians is the column `abs_rel_median`; `abs_rel` has another scale.

DTU is read in metres: its gate for ICP, 100 mm, is that of the others, 0.1 m.
"""

from flow3r.data.datasets import dtu
from flow3r.eval.benchmarks.benchmark import Benchmark, Part
from flow3r.eval.benchmarks.choices import held_out, matching
from flow3r.eval.benchmarks.paper_rows import (
    BONN_LENGTHS,
    BONN_PART,
    INDOORS,
    NRGBD_SCENES,
    SCANNET_SCENES,
    SEVENSCENES_LENGTHS,
    SINTEL_LENGTHS,
    TUM_LENGTHS,
    TUM_PART,
)
from flow3r.eval.benchmarks.samplings import EveryNth, RandomFrames
from flow3r.metrics.points import PI3

WHOLE = EveryNth(1)
FARTHEST_VIDEO = 70.0  # π³'s evaluation: Sintel's unit, and metres of Bonn
DTU_LENGTHS = {f"scan{number}": 49 for number in dtu.EVALUATED}  # 22 scans, as Spann3R and π³
ETH3D_SCENES = (  # π³'s: the 13 of training with laser scans; no lengths, so that no manifest is committed
    *("courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office", "pipes", "playground"),
    *("relief", "relief_2", "terrace", "terrains"),
)


def _points(name: str, title: str, dataset: str, every: int, **changes) -> Benchmark:
    """Every n-th frame of a static scene: points after ICP, normals."""
    measures, sampling = ("points", "normals"), EveryNth(every)
    return Benchmark(name, title, dataset, sampling, measures, profile="pi3", points=PI3, **changes)


def _tracks(name: str, title: str, dataset: str, **changes) -> Benchmark:
    """All frames of a cut: the camera's path."""
    return Benchmark(name, title, dataset, WHOLE, ("pose",), profile="pi3", points=PI3, **changes)


def _angles(name: str, title: str, dataset: str, least: int, **changes) -> Benchmark:
    """Ten frames at random: relative poses (π³'s evaluation)."""
    sampling = RandomFrames(10, least)
    return Benchmark(name, title, dataset, sampling, ("pose",), profile="pi3", points=PI3, **changes)


def _depth(name: str, title: str, dataset: str, **changes) -> Benchmark:
    """All frames of a cut, or each by itself: depth."""
    return Benchmark(name, title, dataset, WHOLE, ("depth",), profile="pi3", points=PI3, **changes)


_SCENES7 = {"chosen": tuple(SEVENSCENES_LENGTHS), "lengths": SEVENSCENES_LENGTHS, "farthest": INDOORS}
_NRGBD = {"chosen": NRGBD_SCENES, "farthest": INDOORS}
_SINTEL = {"chosen": tuple(SINTEL_LENGTHS), "lengths": SINTEL_LENGTHS, "farthest": FARTHEST_VIDEO}
_BONN = {"chosen": tuple(BONN_LENGTHS), "lengths": BONN_LENGTHS, "part": BONN_PART, "farthest": FARTHEST_VIDEO}
_KITTI = {"chosen": matching("val/", "/image_02"), "part": Part(0, 110)}  # MonST3R: 110 of each drive
_TUM = {"chosen": tuple(TUM_LENGTHS), "lengths": TUM_LENGTHS, "part": TUM_PART}
_SCANNET = {"chosen": SCANNET_SCENES, "part": Part(0, 90, 3)}  # MonST3R's preparation
_SCANNET |= {"lengths": dict.fromkeys(SCANNET_SCENES, 90)}


def _single(row: dict) -> dict:
    """Of images measured one by one, which are not those that a manifest of sequences could list."""
    return {key: value for key, value in row.items() if key != "lengths"} | {"single_images": True}


PI3_ROWS = (
    _points("pi3_7scenes_sparse", "7-Scenes, every 200th", "sevenscenes", 200, **_SCENES7),
    _points("pi3_7scenes_dense", "7-Scenes, every 40th", "sevenscenes", 40, **_SCENES7),
    _points("pi3_nrgbd_sparse", "NRGBD, every 500th", "nrgbd", 500, **_NRGBD),
    _points("pi3_nrgbd_dense", "NRGBD, every 100th", "nrgbd", 100, **_NRGBD),
    _points("pi3_dtu", "DTU", "dtu", 5, chosen=tuple(DTU_LENGTHS), lengths=DTU_LENGTHS),
    _points("pi3_eth3d", "ETH3D", "eth3d", 5, chosen=ETH3D_SCENES),
    _angles(
        "pi3_re10k", "RealEstate10K", "re10k", 10, chosen=matching("test/", "")
    ),  # those whose video is still there
    _angles("pi3_co3dv2", "CO3Dv2, 10 frames", "co3dv2", 50, chosen=held_out),
    _tracks("pi3_sintel_pose", "Sintel, all frames", "sintel", **_SINTEL),
    _tracks("pi3_tum_pose", "TUM-dynamics, 90 frames", "tum_dynamics", **_TUM),
    _tracks("pi3_scannet_pose", "ScanNet, 90 frames", "scannet", **_SCANNET),
    _depth("pi3_sintel_depth", "Sintel, video depth", "sintel", **_SINTEL),
    _depth("pi3_bonn_depth", "Bonn, video depth", "bonn", **_BONN),
    _depth("pi3_kitti_depth", "KITTI, video depth", "kitti_depth", **_KITTI),
    _depth("pi3_sintel_mono", "Sintel, single images", "sintel", **_single(_SINTEL)),
    _depth("pi3_bonn_mono", "Bonn, single images", "bonn", **_single(_BONN)),
    _depth("pi3_kitti_mono", "KITTI, single images", "kitti_depth", **_single(_KITTI)),
    _depth("pi3_nyuv2_mono", "NYUv2, single images", "nyuv2", single_images=True),  # 654 of the official test
)
