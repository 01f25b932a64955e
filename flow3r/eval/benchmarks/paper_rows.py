"""The paper's benchmarks as rows (tables 1-15), and one more of the same kind.

Eight frames each (paper A.3). The paper publishes no strides: all are ours. Every choice of a row, and where it comes
from, stands in docs/evaluation.md ("Sequences, frames and truth of each benchmark"). A row's `lengths` are facts that
do not depend on what is on a disk; manifests made of them alone are part of the package (drawn/).
"""

from dataclasses import replace

from flow3r.data.datasets import sevenscenes, sintel
from flow3r.data.datasets.bonn import BONN_RAW
from flow3r.eval.benchmarks.benchmark import Benchmark, Part
from flow3r.eval.benchmarks.choices import held_out, held_out_clips
from flow3r.eval.benchmarks.samplings import Connected, RandomFrames, Strides

# 1064 frames in 23 sequences of training, as many as the release says; 19 of them have 50.
SINTEL_LENGTHS = dict.fromkeys(sintel.EVALUATED, 50) | {"ambush_4": 33, "ambush_6": 20, "market_6": 40}
BONN_NAMES = ("balloon2", "crowd2", "crowd3", "person_tracking2", "synchronous")  # MonST3R's
BONN_LENGTHS = {f"rgbd_bonn_{name}": 110 for name in BONN_NAMES}  # after the cut; each is several hundred long
BONN_PART = Part(30, 110)  # MonST3R's preparation: items 30:140
TUM_NAMES = tuple(f"{how}_{path}" for how in ("sitting", "walking") for path in ("static", "xyz", "halfsphere", "rpy"))
TUM_LENGTHS = {f"rgbd_dataset_freiburg3_{name}": 90 for name in TUM_NAMES}  # after the cut; each has over 700
TUM_PART = Part(0, 90, 3)  # MonST3R's preparation: every 3rd match, the first 90
SCANNET_SCENES = tuple(f"scene{number:04d}_00" for number in range(707, 807))  # MonST3R's, all of the test
SEVENSCENES_TESTS = {  # the release's TestSplit.txt of each scene
    "chess": (3, 5),
    "fire": (3, 4),
    "heads": (1,),
    "office": (2, 6, 7, 9),
    "pumpkin": (1, 7),
    "redkitchen": (3, 4, 6, 12, 14),
    "stairs": (1, 4),
}
SEVENSCENES_LENGTHS = {  # the release's page: 17,000 test frames; sequences have 1000, those of stairs 500
    f"{scene}/seq-{number:02d}": 500 if scene == "stairs" else 1000
    for scene, numbers in SEVENSCENES_TESTS.items()
    for number in numbers
}
NRGBD_SCENES = (  # π³'s list; how long they are is not published, so that no manifest is committed
    *("breakfast_room", "complete_kitchen", "green_room", "grey_white_room", "kitchen", "morning_apartment"),
    *("staircase", "thin_geometry", "whiteroom"),
)
INDOORS = 10.0  # metres; ours: what sensors of rooms are believed for, as loaders of others have it

# The paper's 60 sequences of Kinetics-700 and those of EPIC-KITCHENS are not published. Here they are all results that
# are there: `flow3r data prepare` draws clips from what is held out, by hash, and drops bad results (data/prepare.py).
# Results of other clips are measured as well, without a check whether a run learnt from them.
KINETICS700 = Benchmark(
    name="kinetics700",
    title="Kinetics700",
    dataset="kinetics700",
    pseudo="megasam",
    sampling=Strides((1, 2, 4, 8, 16)),  # ours
    measures=("pose", "points"),
)
EPIC_KITCHENS = Benchmark(
    name="epic_kitchens",
    title="EPIC-KITCHENS",
    dataset="epic_kitchens",
    pseudo="megasam",
    part=Part(0, 100),  # paper: 100 frames per sequence
    sampling=Strides((2, 4, 8, 14)),  # ours: up to the largest that fits into 100 frames
    measures=("pose", "points"),
)
SINTEL = Benchmark(
    name="sintel",
    title="Sintel",
    dataset="sintel",
    chosen=sintel.EVALUATED,  # MonST3R's, CUT3R's and π³'s
    lengths=SINTEL_LENGTHS,
    sampling=Strides((1, 2, 4, 6)),  # ours: sequences have 20 to 50 frames
    measures=("pose", "points"),
    farthest=sintel.FARTHEST,  # π³'s for depth; ours for points: else the sky dominates s
)
BONN = Benchmark(
    name="bonn",
    title="Bonn",
    dataset="bonn",
    chosen=tuple(BONN_LENGTHS),
    lengths=BONN_LENGTHS,
    part=BONN_PART,
    sampling=Strides((1, 4, 8, 15)),  # ours: up to the largest that fits into 110 frames
    measures=("pose", "points"),
)
BONN_RAW_GT = replace(  # the size of the paper's rotation errors on Bonn is that of the marker plate's poses
    BONN, name="bonn_raw_gt", title="Bonn (poses as tracked)", variant=BONN_RAW
)
TUM_DYNAMICS = Benchmark(  # in no table of the paper
    name="tum_dynamics",
    title="TUM-dynamics",
    dataset="tum_dynamics",
    chosen=tuple(TUM_LENGTHS),
    lengths=TUM_LENGTHS,
    part=TUM_PART,
    sampling=Strides((1, 4, 8, 12)),  # ours: as for Bonn, whose cut is a fifth longer
    measures=("pose", "points"),
)
CO3DV2 = Benchmark(
    name="co3dv2",
    title="CO3Dv2",
    dataset="co3dv2",
    chosen=held_out,  # the test part of fewview_dev, as π³'s evaluation
    sampling=RandomFrames(8, least=50),  # π³'s rule with 8 frames in place of 10
    measures=("pose", "points"),
)
SCANNET = Benchmark(
    name="scannet",
    title="ScanNet",
    dataset="scannet",
    chosen=SCANNET_SCENES,
    lengths=dict.fromkeys(SCANNET_SCENES, 270),  # after the cut; preparations of others find 90 at step 3 in each
    part=Part(0, 270),  # MonST3R's preparation: the first 270
    sampling=Strides((10, 20, 30)),  # ours
    measures=("pose", "points"),
    farthest=INDOORS,
)
NRGBD = Benchmark(
    name="nrgbd",
    title="NRGBD",
    dataset="nrgbd",
    chosen=NRGBD_SCENES,
    sampling=Strides((20, 40, 60)),  # ours: as for 7-Scenes, also long scans
    measures=("pose", "points"),
    farthest=INDOORS,
)
SEVENSCENES = Benchmark(
    name="7scenes",
    title="7-Scenes",
    dataset=sevenscenes.SEVENSCENES.name,
    chosen=tuple(SEVENSCENES_LENGTHS),
    lengths=SEVENSCENES_LENGTHS,
    sampling=Strides((20, 40, 60)),  # ours: all fit into the 500 frames of stairs
    measures=("pose", "points"),
    farthest=INDOORS,
)
SCANNETPP = Benchmark(
    name="scannetpp",
    title="ScanNet++ (static ablation)",
    dataset="scannetpp",
    chosen=held_out,  # splits nvs_sem_val and nvs_test, each device by itself
    sampling=Strides((1, 2, 4, 8)),  # ours: photographs lie far apart, and every 10th frame of an iPhone has a pose
    measures=("pose", "points"),
)
OMNIWORLD = Benchmark(
    name="omniworld",
    title="OmniWorld (dynamic ablation)",
    dataset="omniworld",
    chosen=held_out,  # the published test splits, and whole scenes by hash
    sampling=Strides((1, 2, 4, 8, 16)),  # ours: as for Kinetics-700, also video of about 24 frames a second
    measures=("pose", "points"),
)
SPATIALVID = Benchmark(
    name="spatialvid",
    title="SpatialVID",
    dataset="spatialvid",
    pseudo="labels",  # Table 6: a teacher's flow on videos that are held out; the teacher is the store's
    chosen=held_out_clips,
    sampling=Connected(8),  # ours: 8 frames as everywhere, such that the store has labels for pairs of them
    measures=("flow",),
)

PAPER_ROWS = (
    *(KINETICS700, EPIC_KITCHENS, SINTEL, BONN, CO3DV2, SCANNET, NRGBD, SEVENSCENES),  # tables 2, 3 and 8-15
    *(SCANNETPP, OMNIWORLD, SPATIALVID),  # tables 1, 4, 6 and 7
    *(BONN_RAW_GT, TUM_DYNAMICS),
)
