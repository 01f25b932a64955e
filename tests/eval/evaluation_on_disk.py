"""Small copies of everything that is evaluated, each in its own format, in folders as a root of evaluation has them.

Two sequences of each dataset (where some are left out on purpose, two of the chosen), called as the benchmarks call
them. Of cameras whose calibration is fixed (Bonn, TUM, 7-Scenes) images have the real size, but are rendered at a tenth
of it and blown up: labels agree between views to a few pixels there, and exactly elsewhere.
"""

from pathlib import Path

import numpy as np
import torch
from co3dv2_on_disk import write_category, write_set_list
from dtu_on_disk import write_dtu
from eth3d_on_disk import SIZE as ETH3D_SIZE
from eth3d_on_disk import parameters, write_eth3d
from kitti_on_disk import write_kitti
from megasam_on_disk import write_consistent
from nrgbd_on_disk import write_nrgbd
from nyuv2_on_disk import write_nyuv2
from omniworld_on_disk import write_omniworld
from posed_on_disk import write_posed
from re10k_on_disk import write_re10k
from rendered import Rendered, rendered_scene
from scannet_on_disk import write_scan
from scannetpp_on_disk import write_device
from scipy.linalg import polar
from sevenscenes_on_disk import COLOUR_FROM_DEPTH, write_sevenscenes
from sintel_on_disk import write_sintel
from synthetic_room import intrinsics_of, pose
from tum_on_disk import START, write_tum

from flow3r.data.datasets.bonn import T_M, T_ROS
from flow3r.data.labels import LabelStore, Segment, SegmentInfo
from flow3r.data.sampling import label_pairs
from flow3r.geometry.flow import flow_from_depth
from flow3r.types import Flow

FRAMES, LARGE_FRAMES = 16, 10  # of a sequence; of one with large images
SIZE = (48, 64)
SMALLER = 10  # by how much scenes are that are blown up to the 480 x 640 of their cameras
HELD_OUT_CLIPS = (  # UUIDs that the rule for SpatialVID holds out
    "fb82860d-eabc-48d0-b341-facdff0ac0f1",
    "1db53334-fb03-43a1-9576-d4155ec17dbe",
)
LEARNT_CLIP = "31d0b664-0589-4877-9b02-52440950fd13"
CO3DV2_FRAMES = 50  # the fewest that a sequence may have


def write_evaluation(root: Path) -> Path:
    """Write all copies below `root`, which is returned."""
    for number, name in enumerate(("000_val_0aPcVjNaBUc_000011_000021", "001_val_b_NrybzYzUg_000415_000425")):
        write_consistent(root / "kinetics700_megasam" / "megasam", scene(number), name)  # as prepared
    for number, name in enumerate(("P01_101", "P02_102")):
        write_consistent(root / "epic_kitchens_megasam", scene(number), name)
    nothing = np.zeros(SIZE, dtype=bool)
    sky = nothing.copy()
    sky[:4] = True
    for number, name in enumerate(("alley_2", "ambush_6")):
        write_sintel(root / "sintel" / "training", name, scene(number), sky, nothing)
    _write_co3dv2(root / "co3dv2")
    for number, name in enumerate(("scene0707_00", "scene0708_00", "scene0000_00")):
        write_scan(root / "scannet", scene(number, 24), scene(number, 24), name)  # every third is 8
    for number, name in enumerate(("kitchen", "staircase")):
        write_nrgbd(root / "nrgbd" / name, scene(number))
    _write_kinects(root)
    _write_scannetpp(root / "scannetpp")
    for number, uid in enumerate(("b04f88d1f85a", "0f3a1c5d7e92")):  # one of them is held out, both of its splits
        splits = (tuple(range(10)), tuple(range(10, 20)))
        write_omniworld(root / "omniworld", scene(number, 20), uid, splits)
    _write_labels(root / "labels" / "spatialvid")
    _write_further(root)
    for name in ("cellar", "attic"):
        write_posed(root / "posed_folders" / name, 10)
    return root


def scene(
    number: int, count: int = FRAMES, size: tuple[int, int] = SIZE, intrinsics: np.ndarray | None = None
) -> Rendered:
    """A walk of about two metres; another one for each `number`."""
    intrinsics = intrinsics_of(60.0, size) if intrinsics is None else intrinsics
    return rendered_scene(size=size, intrinsics=intrinsics, poses=path(number, count))


def path(number: int, count: int) -> np.ndarray:
    """World-from-camera poses of that walk."""
    steps = np.linspace(0, 1, count)
    return np.stack([pose(0.5 * t + number, (1.6 * t - 0.4 * number, -0.2 * t, 0.7 * t), 0.3 * t) for t in steps])


def blown_up(number: int, fx: float, fy: float, cx: float, cy: float) -> Rendered:
    """A scene of 480 x 640 whose pixels come in blocks; intrinsics of the large image, half-integer centres."""
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    small = scene(number, LARGE_FRAMES, intrinsics=np.diag([1 / SMALLER, 1 / SMALLER, 1.0]) @ intrinsics)
    images, depth = (part.repeat(SMALLER, axis=1).repeat(SMALLER, axis=2) for part in (small.images, small.depth))
    return Rendered(images, depth, intrinsics, small.world_from_camera)


def marker_from_camera() -> np.ndarray:
    """How the plate that is tracked in Bonn's sequences is mounted."""
    mounted = T_M.copy()
    mounted[:3, :3] = polar(T_M[:3, :3])[0]
    return T_ROS @ mounted


def _write_co3dv2(root: Path) -> None:
    """Two sequences of the test of fewview_dev, and one that is learnt from."""
    names = ("110_13051_23361", "189_20393_38136", "12_90_489")
    frames = write_category(root, {name: scene(k, CO3DV2_FRAMES, (24, 32)) for k, name in enumerate(names)})
    learnt = [frame for frame in frames if frame["sequence_name"] == names[2]]
    test = [frame for frame in frames if frame["sequence_name"] != names[2]]
    write_set_list(root / "apple", "fewview_dev", train=learnt, test=test)


def _write_kinects(root: Path) -> None:
    """Bonn, TUM and 7-Scenes, and images before and between those that are evaluated."""
    for number, name in enumerate(("balloon2", "crowd2")):
        seen, folder = blown_up(number, 542.8, 542.6, 316.1, 238.3), root / "bonn" / f"rgbd_bonn_{name}"
        write_tum(folder, seen, seen.world_from_camera @ np.linalg.inv(marker_from_camera()))
        before = [(START - 5e-4 * k, _image(folder, 0)) for k in range(1, 31)]  # the 30 that are cut off
        _list_again(folder, before)
    for number, name in enumerate(("sitting_static", "walking_xyz")):
        seen, folder = (
            blown_up(number, 535.4, 539.2, 320.6, 248.1),
            root / f"tum_dynamics/rgbd_dataset_freiburg3_{name}",
        )
        write_tum(folder, seen, seen.world_from_camera)
        between = [(_time(folder, k) + gap, _image(folder, k)) for k in range(LARGE_FRAMES) for gap in (0.004, 0.008)]
        _list_again(folder, between)
    for number, name in enumerate(("chess", "fire")):
        seen = blown_up(number, 525, 525, 320.5, 240.5)
        small = np.array([[58.5, 0, 32], [0, 58.5, 24], [0, 0, 1]])
        raw = rendered_scene(size=SIZE, intrinsics=small, poses=seen.world_from_camera @ COLOUR_FROM_DEPTH)
        depth = raw.depth.repeat(SMALLER, axis=1).repeat(SMALLER, axis=2)
        raw = Rendered(seen.images, depth, raw.intrinsics, raw.world_from_camera)
        write_sevenscenes(root / "sevenscenes" / name / "seq-03", seen, projected=True, seen=raw)
        (root / "sevenscenes" / name / "TestSplit.txt").write_text("sequence3\n")


def _image(folder: Path, k: int) -> str:
    return sorted((folder / "rgb").iterdir())[k].relative_to(folder).as_posix()


def _time(folder: Path, k: int) -> float:
    return float(Path(_image(folder, k)).stem)


def _list_again(folder: Path, images: list[tuple[float, str]]) -> None:
    """More lines of rgb.txt, of images that are there already."""
    with open(folder / "rgb.txt", "a", encoding="utf-8") as file:
        file.writelines(f"{time:.5f} {image}\n" for time, image in images)


def _write_scannetpp(root: Path) -> None:
    """Two scenes of the validation, and one that is learnt from."""
    for number, name in enumerate(("0a5c013435", "7b6477cb95", "ffffffffff")):
        write_device(root, path(number, 9), "iphone", name)
    (root / "splits").mkdir()
    (root / "splits" / "nvs_sem_val.txt").write_text("0a5c013435\n7b6477cb95\n")


def _write_labels(folder: Path) -> None:
    """Exact flow of a still scene as a label store: two clips that are held out and one that is learnt from."""
    store = LabelStore(folder, {"teacher": "exact", "grid": list(SIZE)})
    for number, clip in enumerate((*HELD_OUT_CLIPS, LEARNT_CLIP)):
        _write_segment(store, f"group_0001/{clip}", scene(number, 10))


def _write_segment(store: LabelStore, source: str, truth: Rendered) -> None:
    count, times = len(truth.images), np.arange(len(truth.images)) / 25
    pairs = torch.from_numpy(label_pairs(times, pairs_per_frame=2.0, seed=0)).long()
    depth, poses = torch.from_numpy(truth.depth), torch.from_numpy(truth.world_from_camera)
    intrinsics = torch.from_numpy(truth.intrinsics).expand(count, 3, 3)
    displacement, covisible = flow_from_depth(depth[pairs], intrinsics[pairs], poses[pairs])
    info = SegmentInfo(
        source=source,
        source_sha256=source.encode().hex()[:64],
        shot=(0, count),
        indices=tuple(range(count)),
        timestamps=tuple(times.tolist()),
        names=tuple(f"{source} {k}" for k in range(count)),
        original_sizes=(SIZE,) * count,
        size=SIZE,
        model_from_original=(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * count,
        pairs=tuple((i, j) for i, j in pairs.tolist()),
        covisible_share=tuple(covisible.double().mean((1, 2)).tolist()),
        median_flow=tuple(displacement.norm(dim=-1).flatten(1).median(1).values.tolist()),
        refusals=(),
    )
    flow = Flow(pairs[None], displacement[None].float(), covisible[None].float())
    store.write(Segment(info, truth.images, flow))


def _write_further(root: Path) -> None:
    """What π³ alone is measured on."""
    for number, name in enumerate(("0bf152ef84195293", "2f4e1c3a5b6d7e8f")):
        write_re10k(root / "re10k", name, scene(number))
    for number, name in enumerate(("scan1", "scan4")):
        write_dtu(root / "dtu" / name, scene(number))
    values = parameters()
    (fx, fy, cx, cy), count = values[:4], 7
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    blank = np.zeros((count, *ETH3D_SIZE))  # it renders its own views
    for number, name in enumerate(("courtyard", "relief")):
        write_eth3d(root / "eth3d" / name, Rendered(blank, blank, intrinsics, path(number, count)), values)
    for number, name in enumerate(("2011_09_26_drive_0002_sync", "2011_09_28_drive_0037_sync")):
        write_kitti(root / "kitti_depth", scene(number, 8), name)
    write_nyuv2(root / "nyuv2", scene(0, 3))
