"""Small copies of every dataset that the paper names, learnt from or measured, in one root as a user would have it."""

import shutil
from pathlib import Path

import cv2
import numpy as np
from evaluation_on_disk import HELD_OUT_CLIPS, LEARNT_CLIP, path, scene, write_evaluation
from labelled_on_disk import write_labelled
from made_media import write_video
from megasam_on_disk import write_consistent
from scannetpp_on_disk import SIZE, write_device

from flow3r.config import SourceConfig, WorldsConfig
from flow3r.data.datasets.scannetpp import SCANNETPP
from flow3r.data.subsets import draw_subset
from flow3r.data.worlds import render_worlds

CLIP_OF_SPATIALVID = f"spatialvid/videos/group_0001/{LEARNT_CLIP}.mp4"
CLIPS = {  # of worlds in which the classical teacher finds flow; names that no rule holds out
    "kinetics700/train/abseiling/a_b-cDeFgHi_000002_000012.mp4": 16,
    CLIP_OF_SPATIALVID: 19,
    "epic_kitchens/P03/videos/P03_02.MP4": 13,
}
CLIP_FRAMES, CLIP_SIZE = 10, (168, 224)
CALM = WorldsConfig(rotation_degrees=(4.0, 8.0))


def write_paper(root: Path) -> Path:
    """Write all copies below `root`, which is returned."""
    write_evaluation(root)
    learnt = root / "learnt"
    for name in write_labelled(learnt):
        if not (root / name).exists():
            shutil.move(learnt / name, root / name)
    shutil.rmtree(learnt)
    write_consistent(root / "spatialvid_megasam", scene(4), LEARNT_CLIP)
    for file, seed in CLIPS.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / file, list(clip(seed, CLIP_SIZE)))
    for name in HELD_OUT_CLIPS:  # whose labels are measured
        shutil.copy(root / CLIP_OF_SPATIALVID, root / CLIP_OF_SPATIALVID.replace(LEARNT_CLIP, name))
    _add_unlabelled_scannetpp(root / "scannetpp")
    return root


def clip(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Frames (N H W 3) of a world, RGB."""
    images = render_worlds([seed], CLIP_FRAMES, size, config=CALM, difficulty=0.0).views.images[0]
    return (images.movedim(1, -1) * 255).round().byte().numpy()


def _add_unlabelled_scannetpp(root: Path) -> None:
    """A second scene to learn from. Whichever of the two the order of hashes makes the unlabelled one has other images:
    in those of the room, which are of two colours, no teacher finds flow."""
    write_device(root, path(3, CLIP_FRAMES - 1), "iphone", "fffffffffe")
    names = [sequence.name for sequence in SCANNETPP.sequences(root)]
    (unlabelled,) = draw_subset(SourceConfig("scannetpp", 1, skip=1), names, test=SCANNETPP.held_out(root)).names
    images = sorted((root / "data" / unlabelled.split("/")[0] / "iphone" / "rgb").iterdir())
    for file, image in zip(images, clip(13, SIZE)):
        cv2.imwrite(str(file), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
