"""SpatialVID and its high-quality part SpatialVID-HQ: clips of 3 to 15 seconds with camera motion, from YouTube.

After the dataset card of SpatialVID-HQ: the archives of `videos/` unpack to a folder for each group. The cameras and
depth of `annotations/` and `depths/`, which are estimates at a lower rate, are not read: the paper takes it as
unlabelled.

It publishes no test split (its card has data/train/ alone): held out are the clips that `scenes_for_tests` chooses by
their UUIDs. Neither names nor metadata tell which video a clip was cut from (that is in SpatialVID-RAW, which is given
out on request), so that another clip of the same video may be learnt from.
"""

from collections.abc import Sequence as List
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset, folders, scenes_for_tests
from flow3r.data.datasets.videos import required_videos, videos_below
from flow3r.data.frame import Sequence

LAYOUT = "videos/group_0001/<uuid>.mp4, unpacked"


def sequences(root: Path) -> List[Sequence]:
    """The clips below `root`, such as group_0001/<uuid>."""
    groups = folders(root, "videos/group_*", "SpatialVID", LAYOUT)
    found = [video for group in groups for video in videos_below(group, f"{group.name}/")]
    return required_videos(found, root, "SpatialVID", LAYOUT)


def held_out(root: Path) -> list[str]:
    """About 2 % of the clips, whatever groups are there."""
    names = {sequence.name: sequence.name.rsplit("/", 1)[1] for sequence in sequences(root)}
    chosen = scenes_for_tests("spatialvid", names.values())
    return [name for name, clip in names.items() if clip in chosen]


SPATIALVID = Dataset(
    name="spatialvid",
    title="SpatialVID",
    sequences=sequences,
    held_out=held_out,
    labels="none",
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0 (its dataset card)",
    url="https://huggingface.co/datasets/SpatialVID/SpatialVID-HQ",
    citation="Wang et al., SpatialVID: A Large-Scale Video Dataset with Spatial Annotations, arXiv 2509.09676",
)
