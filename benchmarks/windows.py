"""Windows against one pass on long paths through worlds, and the host memory of a long video.

    python -m benchmarks.windows

Errors of camera paths (ATE) after one similarity, in percent of the path's length. The oracle is the truth in a world
and at a scale of each window's own, with 1 % noise on depth, and on camera centres relative to a step between frames.
"""

import re
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from flow3r.config import BranchConfig, EncoderConfig, ModelConfig, MultiViewConfig, WorldsConfig
from flow3r.data.worlds import Worlds, render_worlds
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import rotation_from_axis_angle, rotation_from_quaternion
from flow3r.geometry.stitch import move_cameras, similarity
from flow3r.metrics.pose import trajectory_errors
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.flow3r import Flow3r
from flow3r.nn.precision import product_rate
from flow3r.reconstruction import memory_budget, plan_windows, reconstruct
from flow3r.types import Prediction

SEEDS, VIEWS, SIZE = range(900_000, 900_006), 48, (112, 112)
# One walk around a static scene: what is measured is how windows are joined, not what moves.
WALKS = WorldsConfig(rotation_degrees=(60.0, 100.0), moving_share=0.0)
WINDOWS = (48, 24, 12, 8, 4)
VIDEO_FRAMES = (300, 3000)
TINY = ModelConfig(
    encoder=EncoderConfig(width=32, depth=1, heads=2, registers=1, position_grid=4),
    multiview=MultiViewConfig(width=32, depth=2, heads=2, registers=1),
    branch=BranchConfig(width=32, depth=4, heads=2, camera_width=32),
    flow=None,
    tokens=(30, 40),
)
# What a process needed at most: VmHWM belongs to this program alone, unlike ru_maxrss, which a fork hands down.
MEASURED = """
import re, sys
from flow3r.cli import main
main(sys.argv[1:])
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


class Oracle(nn.Module):
    """The truth of one world, but for noise and a similarity of every window's own. Images carry their number."""

    def __init__(self, world: Worlds, noise: float):
        super().__init__()
        views = world.views
        self.local = unproject(views.depth[0].double(), views.intrinsics[0].double())
        self.poses, self.noise = views.world_from_camera[0].double(), noise
        self.step = (self.poses[1:, :3, 3] - self.poses[:-1, :3, 3]).norm(dim=-1).mean()

    def forward(self, images: torch.Tensor, *, outputs: tuple[str, ...]) -> Prediction:
        numbers = (images[0, :, 0, 0, 0] * 255).round().long()
        generator = torch.Generator().manual_seed(int(numbers[0]))

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        poses, local = self.poses[numbers].clone(), self.local[numbers]
        poses[:, :3, :3] @= rotation_from_axis_angle(0.1 * self.noise * normal(len(numbers), 3))
        poses[:, :3, 3] += self.noise * self.step * normal(len(numbers), 3)
        known = local[..., 2] > 0
        scale = normal().exp()
        own = similarity(scale, rotation_from_quaternion(normal(4)), 5 * normal(3))
        local = scale * local * (1 + self.noise * normal(*known.shape))[..., None]
        return Prediction(
            local_points=local[None].float(),
            confidence_logit=torch.where(known, 3.0, -20.0)[None],
            world_from_camera=move_cameras(own, poses)[None].float(),
        )


def path_errors(world: Worlds, model: nn.Module, views: int, numbered: bool) -> tuple[float, float]:
    """ATE in percent of the path's length, and seconds."""
    images = (world.views.images[0] * 255).round().to(torch.uint8).movedim(1, -1).numpy().copy()
    if numbered:
        images[:, 0, 0] = np.arange(len(images))[:, None]
    began = time.perf_counter()
    found = reconstruct(images, model, max_frames=None, tokens=(64, 64), views_per_window=views)
    seconds = time.perf_counter() - began
    truth = world.views.world_from_camera[0].double()
    length = (truth[1:, :3, 3] - truth[:-1, :3, 3]).norm(dim=-1).sum().item()
    return 100 * trajectory_errors(torch.from_numpy(found.world_from_camera), truth).ate / length, seconds


def comparison() -> Table:
    worlds = [render_worlds([seed], VIEWS, SIZE, config=WALKS) for seed in SEEDS]
    nano = load_model("nano")
    table = Table(
        title=f"ATE in % of the path, {len(worlds)} paths of {VIEWS} frames at {SIZE[0]} px, mean (worst)",
        caption="a camera that never moves: "
        + "{:.2f} ({:.2f})".format(*mean_and_worst([static_error(world) for world in worlds])),
    )
    for column in ("views per window", "overlap", "windows", "nano", "oracle, 1 % noise", "seconds of nano"):
        table.add_column(column, justify="right")
    for views in WINDOWS:
        plan = plan_windows(None, SIZE, VIEWS, 0, views=views)
        rows = [path_errors(world, nano, views, numbered=False) for world in worlds]
        exact = [path_errors(world, Oracle(world, 0.01), views, numbered=True)[0] for world in worlds]
        cells = ["{:.2f} ({:.2f})".format(*mean_and_worst(part)) for part in ([row[0] for row in rows], exact)]
        seconds = sum(row[1] for row in rows) / len(rows)
        table.add_row(str(plan.views_per_window), str(plan.overlap), str(plan.windows), *cells, f"{seconds:.2f}")
    return table


def mean_and_worst(values: list[float]) -> tuple[float, float]:
    return sum(values) / len(values), max(values)


def static_error(world: Worlds) -> float:
    centre = world.views.world_from_camera[0, :, :3, 3]
    length = (centre[1:] - centre[:-1]).norm(dim=-1).sum()
    return (100 * (centre - centre.mean(0)).square().sum(-1).mean().sqrt() / length).item()


def write_video(path: Path, frames: int) -> None:
    """A short walk, over and over again."""
    import av

    world = render_worlds([5], 12, (120, 160), config=WALKS)
    loop = (world.views.images[0] * 255).round().to(torch.uint8).movedim(1, -1).numpy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for k in range(frames):
            there_and_back = loop[min(k % 22, 22 - k % 22)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(there_and_back, format="rgb24")))
        container.mux(stream.encode())


def memory() -> Table:
    table = Table(
        title="flow3r reconstruct VIDEO --max-frames 0: peak host memory, tiny model, 160 x 120 video",
        caption="windows of 16; npz, ply, glb, tum and html written; each in a process of its own",
    )
    for column in ("frames", "peak MB", "against the first", "seconds"):
        table.add_column(column, justify="right")
    first = None
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "tiny.safetensors"
        torch.manual_seed(0)
        save_model(Flow3r(TINY), weights)
        for frames in VIDEO_FRAMES:
            video, out = Path(folder) / f"{frames}.mp4", Path(folder) / f"out{frames}"
            write_video(video, frames)
            arguments = ["reconstruct", str(video), "-o", str(out), "--model", str(weights), "--max-frames", "0"]
            arguments += ["--views-per-window", "16", "--shot", "all", "--formats", "npz,ply,glb,tum,html"]
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            peak = int(re.search(r"peak (\d+)", done.stdout)[1]) / 1e3
            first = first or peak
            seconds = time.perf_counter() - began
            table.add_row(str(frames), f"{peak:.0f}", f"{100 * peak / first - 100:+.1f} %", f"{seconds:.0f}")
    return table


def planned() -> Table:
    """The planner's time against the clock."""
    device, nano = torch.device("cpu"), load_model("nano")
    table = Table(title="nano: planned and measured seconds in the model, on this machine")
    for column in ("views at 112 px", "planned", "measured"):
        table.add_column(column, justify="right")
    for views in (8, 32, 64):
        images = np.random.default_rng(0).integers(0, 255, (views, *SIZE, 3), dtype=np.uint8)
        plan = plan_windows(nano.config, SIZE, views, memory_budget(device))
        runs = [
            reconstruct(images, nano, max_frames=None, tokens=(64, 64), dtype=torch.float32).timings["predict"]
            for _ in range(3)
        ]
        seconds = plan.seconds(product_rate(device, torch.float32))
        table.add_row(str(views), f"{seconds:.2f}", f"{min(runs):.2f}")
    return table


def main() -> None:
    console = Console(width=120)
    console.print(comparison())
    console.print(planned())
    console.print(memory())


if __name__ == "__main__":
    main()
