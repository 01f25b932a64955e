"""π³'s own benchmarks as rows, to check readers and metrics against numbers that are published for public weights.

After its public evaluation branch, as the project's page on evaluation ("spec", by section) reports it. Its random
frames come from one generator in the order of its lists; here they are drawn by the rule of this project, so that
numbers agree up to that draw. DTU is read in metres: its gate for ICP, 100 mm, is that of the others, 0.1 m.
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
FARTHEST_VIDEO = 70.0  # spec 1.6: Sintel's unit, and metres of Bonn
DTU_LENGTHS = {f"scan{number}": 49 for number in dtu.EVALUATED}  # spec 2.10
ETH3D_SCENES = (  # the 13 of training with laser scans; how many photographs each has is not given in spec 2.10
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
    """Ten frames at random: relative poses (spec 2.5, 2.10)."""
    sampling = RandomFrames(10, least)
    return Benchmark(name, title, dataset, sampling, ("pose",), profile="pi3", points=PI3, **changes)


def _depth(name: str, title: str, dataset: str, **changes) -> Benchmark:
    """All frames of a cut, or each by itself: depth."""
    return Benchmark(name, title, dataset, WHOLE, ("depth",), profile="pi3", points=PI3, **changes)


_SCENES7 = {"chosen": tuple(SEVENSCENES_LENGTHS), "lengths": SEVENSCENES_LENGTHS, "farthest": INDOORS}
_NRGBD = {"chosen": NRGBD_SCENES, "farthest": INDOORS}
_SINTEL = {"chosen": tuple(SINTEL_LENGTHS), "lengths": SINTEL_LENGTHS, "farthest": FARTHEST_VIDEO, "dynamic": True}
_BONN = {"chosen": tuple(BONN_LENGTHS), "lengths": BONN_LENGTHS, "part": BONN_PART, "farthest": FARTHEST_VIDEO}
_BONN |= {"dynamic": True}
_KITTI = {"chosen": matching("val/", "/image_02"), "part": Part(0, 110), "dynamic": True}  # MonST3R: 110 of each drive
_TUM = {"chosen": tuple(TUM_LENGTHS), "lengths": TUM_LENGTHS, "part": TUM_PART, "dynamic": True}
_SCANNET = {"chosen": SCANNET_SCENES, "part": Part(0, 90, 3)}  # spec 2.6
_SCANNET |= {"lengths": dict.fromkeys(SCANNET_SCENES, 90)}


def _single(row: dict) -> dict:
    """Of images measured one by one, which are not those that a manifest of sequences could list."""
    return {key: value for key, value in row.items() if key != "lengths"} | {"single_images": True}


PI3_ROWS = (
    _points("pi3_7scenes_sparse", "7-Scenes, every 200th", "sevenscenes", 200, **_SCENES7),  # spec 2.8
    _points("pi3_7scenes_dense", "7-Scenes, every 40th", "sevenscenes", 40, **_SCENES7),  # spec 2.8
    _points("pi3_nrgbd_sparse", "NRGBD, every 500th", "nrgbd", 500, **_NRGBD),  # spec 2.7
    _points("pi3_nrgbd_dense", "NRGBD, every 100th", "nrgbd", 100, **_NRGBD),  # spec 2.7
    _points("pi3_dtu", "DTU", "dtu", 5, chosen=tuple(DTU_LENGTHS), lengths=DTU_LENGTHS),  # spec 2.10
    _points("pi3_eth3d", "ETH3D", "eth3d", 5, chosen=ETH3D_SCENES),  # spec 2.10
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
