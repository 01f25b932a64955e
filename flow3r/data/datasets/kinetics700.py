"""Kinetics-700 (2020): clips of about ten seconds from YouTube, of any rate, size and quality.

After the repository of its mirror, cvdfoundation/kinetics-dataset, whose extractor unpacks the archives of a split into
a folder of its name, with or without folders of classes; a clip is called <id>_<start>_<end>.mp4, in whole seconds of
its video with six digits. Some clips were replaced or lost: what is there is listed. Real names were read
(docs/data.md).
"""

from collections.abc import Sequence as List
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.datasets.videos import required_videos, videos_below
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

SPLITS = ("train", "val", "test")
LAYOUT = "{train,val,test}/[<class>/]<youtube id>_000000_000010.mp4, unpacked"


def sequences(root: Path) -> List[Sequence]:
    """The clips below `root`, such as val/abseiling/<id>_000415_000425."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the root of Kinetics-700: {LAYOUT}")
    splits = [split for split in SPLITS if (root / split).is_dir()]
    found = [video for split in splits for video in videos_below(root / split, f"{split}/")]
    return required_videos(found, root, "Kinetics-700", LAYOUT)


KINETICS700 = Dataset(
    name="kinetics700",
    title="Kinetics-700-2020",
    sequences=sequences,
    held_out=lambda root: [clip.name for clip in sequences(root) if not clip.name.startswith("train/")],
    labels="none",
    layout=LAYOUT,
    licence="annotations: CC BY 4.0; the videos are their uploaders', see YouTube's terms",
    url="https://github.com/cvdfoundation/kinetics-dataset",
    citation="Smaira et al., A Short Note on the Kinetics-700-2020 Human Action Dataset, arXiv 2010.10864",
)
