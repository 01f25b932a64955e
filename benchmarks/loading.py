"""What one core reads of labelled scenes: images per CPU second, from JPEG files to a batch of `Views`.

    python -m benchmarks.loading

Frames of 640 x 480, JPEG at quality 90, of procedural worlds, are written to a temporary folder (cameras.json), with
depth in one array that is held in memory, or as a 16-bit PNG for each frame. `PosedScenes` draws scenes of 8 views from
it, crops and resizes them. Augmentation is as in training. Files lie in the cache of the disk.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from flow3r.config import AugmentConfig
from flow3r.data.augment import augment
from flow3r.data.datasets.folder import CAMERAS, STACKED_DEPTH, CameraFolder
from flow3r.data.mixture import Wanted
from flow3r.data.posed import PosedScenes
from flow3r.data.worlds import render_worlds
from flow3r.types import Views

FRAMES, SIZE, QUALITY, DEPTH_SCALE = 24, (480, 640), 90, 1e-3
SCENES, VIEWS, REPEATS = 3, 8, 7
SIZES = ((224, 224), (392, 518))
GOAL = 60  # images per second and core


def write_folder(path: Path, views: Views, depth: str) -> CameraFolder:
    """A scene as a folder of JPEG frames, with depth as an "array" or as "png"."""
    import cv2
    from PIL import Image

    path.mkdir()
    frames = []
    for number in range(views.images.shape[1]):
        pixels = (views.images[0, number].movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(path / f"{number}.jpg", quality=QUALITY)
        camera = {"K": views.intrinsics[0, number].tolist(), "c2w": views.world_from_camera[0, number].tolist()}
        frames.append({"image": f"{number}.jpg", **camera})
        if depth == "png":
            steps = (views.depth[0, number] / DEPTH_SCALE).clamp(0, 65535).numpy().astype(np.uint16)
            cv2.imwrite(str(path / f"{number}.png"), steps)
            frames[-1]["depth"] = f"{number}.png"
    if depth == "array":
        np.savez(path / STACKED_DEPTH, depths=views.depth[0].numpy())
    content = {"pixel_centre": 0.5, "depth_scale": DEPTH_SCALE, "frames": frames}
    (path / CAMERAS).write_text(json.dumps(content))
    return CameraFolder(path)


def rate(folder: CameraFolder, size: tuple[int, int], augmented: bool) -> tuple[float, float]:
    """Median images per CPU second and per wall second; the first draw warms up."""
    source, generator = PosedScenes([folder], dense=True), torch.Generator().manual_seed(0)
    wanted = Wanted(step=0, scenes=SCENES, views=VIEWS, size=size, pairs=0)
    cpu, wall = [], []
    for _ in range(1 + REPEATS):
        begin = time.process_time(), time.perf_counter()
        views = source.draw(wanted, generator)
        if augmented:
            augment(views, AugmentConfig(), generator)
        cpu.append(time.process_time() - begin[0])
        wall.append(time.perf_counter() - begin[1])
    images = SCENES * VIEWS
    return images / statistics.median(cpu[1:]), images / statistics.median(wall[1:])


def main() -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = Table(
        title=f"loading {SIZE[1]} x {SIZE[0]} JPEG, one core, median of {REPEATS}; goal {GOAL} images/s",
        caption="per CPU second; by the clock where others had the core",
    )
    for column in ("size", "depth", "augmented", "images / CPU s", "images / s by the clock"):
        table.add_column(column, justify="right" if "/" in column else "left")
    views = render_worlds([2**40 + 7], FRAMES, SIZE).views
    with tempfile.TemporaryDirectory() as folder:
        for depth in ("array", "png"):
            frames = write_folder(Path(folder) / depth, views, depth)
            for size in SIZES:
                for augmented in (False, True):
                    rates = (f"{images:.0f}" for images in rate(frames, size, augmented))
                    table.add_row(f"{size[1]} x {size[0]}", depth, "yes" if augmented else "no", *rates)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
