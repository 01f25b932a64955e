"""Whether measurements can be trusted: truth scores perfect, planted faults lower the measures that must tell."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as List
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from jaxtyping import Float

from flow3r.config import WorldsConfig
from flow3r.data.frame import Frame, Sequence, check_indices
from flow3r.data.worlds import Worlds, render_worlds
from flow3r.errors import InputError
from flow3r.eval.benchmarks.benchmark import Benchmark
from flow3r.eval.benchmarks.labelled_segments import FlowLabelled
from flow3r.eval.benchmarks.manifests import Draw, Manifest, make_manifest
from flow3r.eval.benchmarks.samplings import EveryNth
from flow3r.eval.frames import flow_on_grid, labels_on_grid
from flow3r.eval.methods import images_on_grid
from flow3r.eval.predict import sample_path
from flow3r.eval.report import COLUMNS
from flow3r.eval.samples import Sample, write_sample
from flow3r.eval.score import score
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import from_parts, rotation_from_quaternion
from flow3r.types import Flow

TOKENS = (40, 60)  # ours: of the grid that the truth is answered on; small, since every fault is scored
BUDGET = 4_000  # ours: points whose neighbours are sought
MOST_DRAWS = 2  # ours: of a benchmark
WORLD = from_parts(  # the oracle answers in a world and at a scale of its own
    rotation_from_quaternion(torch.tensor([0.8, 0.3, -0.4, 0.2], dtype=torch.float64)), torch.tensor([3.0, -1.0, 2.0])
)
SCALE = 0.4
STATIC = "true baselines are shorter"  # the note of pairs whose direction says nothing, and scores worst
TOLERANCE = {"lower": 2e-3, "higher": 0.2}  # of lengths / s, degrees, ...; of percent. Samples hold single precision
FLOW_TOLERANCE = 0.05  # pixels: samples hold flow in half precision


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and whether it does."""

    text: str
    passed: bool


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in practice, and which of the measures must tell: on the procedural worlds all of
    `lowers`, on other data, where cameras may stand still, one at the least. What it does not touch stays as it was:
    `spares`."""

    name: str
    plant: Callable[[Sample], Sample]
    lowers: tuple[str, ...]
    spares: tuple[str, ...] = ()


def _inverted(sample: Sample) -> Sample:
    return replace(sample, world_from_camera=np.linalg.inv(sample.world_from_camera))


def _opengl(sample: Sample) -> Sample:
    return replace(sample, world_from_camera=sample.world_from_camera @ np.diag([1.0, -1, -1, 1]))


def _half_focal(sample: Sample) -> Sample:
    return replace(sample, local_points=sample.local_points * np.array([2.0, 2, 1]))


def _shuffled(sample: Sample) -> Sample:
    order = np.roll(np.arange(len(sample.frames)), 1)
    return replace(sample, world_from_camera=sample.world_from_camera[order], local_points=sample.local_points[order])


def _two_scales(sample: Sample) -> Sample:
    return replace(sample, local_points=3 * sample.local_points)


def _mirrored_points(sample: Sample) -> Sample:
    return replace(sample, local_points=sample.local_points[:, :, ::-1] * np.array([-1.0, 1, 1]))


def _mirrored_flow(sample: Sample) -> Sample:
    return replace(sample, flow=sample.flow * np.array([-1, 1], dtype=sample.flow.dtype))


def _reversed_flow(sample: Sample) -> Sample:
    return replace(sample, flow=-sample.flow)


def _lost_camera(sample: Sample) -> Sample:
    poses = sample.world_from_camera.copy()
    poses[-1] = np.nan
    return replace(sample, world_from_camera=poses)


TURNS = ("rra@5", "rra@15", "rra@30", "rta@5", "rta@15", "rta@30", "rta_signed@30", "auc@30", "rpe_rotation")
POSE = (*TURNS, "ate", "rpe_translation")
POINTS = ("mse", "accuracy", "completeness", "chamfer", "f@2", "f@5")
DEPTH = ("abs_rel", "delta")
FLOW = ("aepe", "aepe_of_diagonal", *(f"within_{limit}" for limit in ("1px", "3px", "5px", "1%", "2%", "5%")))
FAULTS = (
    Fault("poses are camera-from-world", _inverted, (*POSE, *POINTS), (*DEPTH, *FLOW)),
    Fault("cameras have OpenGL axes", _opengl, (*TURNS, "rpe_translation", *POINTS), ("ate", *DEPTH, *FLOW)),
    Fault("half the focal length", _half_focal, POINTS, (*POSE, *DEPTH, *FLOW)),
    Fault("frames are shuffled", _shuffled, (*POSE, *POINTS, *DEPTH), FLOW),
    Fault("points and cameras have two scales", _two_scales, POINTS, (*POSE, *DEPTH, *FLOW)),
    Fault("points are mirrored", _mirrored_points, (*POINTS, *DEPTH), (*POSE, *FLOW)),
    Fault("flow is mirrored", _mirrored_flow, FLOW, (*POSE, *POINTS, *DEPTH)),
    Fault("flow leads back", _reversed_flow, FLOW, (*POSE, *POINTS, *DEPTH)),
    Fault("one camera is lost", _lost_camera, (*POSE, "dropped"), FLOW),
)


def oracle_sample(sequence: Sequence, frames: List[int]) -> Sample:
    """The truth of some frames as a method would give it: on a grid of its own, in another world, at another scale."""
    seen = list(sequence.frames(frames))
    images, grids = images_on_grid(seen, TOKENS)
    size = tuple(images.shape[-2:])
    truth = labels_on_grid(seen, grids, size)
    poses = torch.eye(4, dtype=torch.float64).repeat(len(seen), 1, 1)
    if truth.world_from_camera is not None:
        poses = truth.world_from_camera[0].clone()
        poses[:, :3, 3] *= SCALE
        poses = WORLD @ poses
    points = torch.full((len(seen), *size, 3), torch.nan, dtype=torch.float64)
    if truth.depth is not None:
        depth = truth.depth[0].double()
        known = torch.eye(3, dtype=torch.float64).repeat(len(seen), 1, 1)  # where depth alone is labelled
        intrinsics = known if truth.intrinsics is None else truth.intrinsics[0]
        points = SCALE * unproject(torch.where(depth > 0, depth, torch.nan), intrinsics)
    pairs = flow = None
    if isinstance(sequence, FlowLabelled):
        labels = flow_on_grid(sequence.flow_among(frames), grids, size)
        pairs, flow = labels.pairs[0].numpy(), labels.displacement[0].float().numpy()
    return Sample(np.array(frames), poses.numpy(), grids, points.numpy(), pairs=pairs, flow=flow)


def check_benchmark(
    benchmark: Benchmark,
    sequences: Mapping[str, Sequence],
    draws: List[Draw],
    root: Path,
    folder: Path,
    *,
    every: bool = False,
) -> Iterator[Check]:
    """The oracle and every fault that the benchmark's measures can tell, on some draws.

    `every`: a fault must lower each measure that it concerns, and each main measure must be lowered by a fault.
    """
    manifest = Manifest(benchmark.name, tuple(draws))
    samples = {draw: oracle_sample(sequences[draw.sequence], draw.frames) for draw in draws}

    def scored(name: str, plant: Callable[[Sample], Sample]) -> list[dict]:
        for draw, sample in samples.items():
            write_sample(sample_path(folder / name / "samples", draw), plant(sample))
        files = folder / name / "samples", folder / name / "scores.jsonl"
        return list(score(benchmark, manifest, root, *files, budget=BUDGET, sequences=sequences))

    oracle = scored("oracle", lambda sample: sample)
    yield from _perfect(benchmark.name, oracle)
    measured, told = {name for row in oracle for name in row["values"]}, set()
    for fault in FAULTS:
        lowers = [name for name in fault.lowers if every or name in measured]
        plantable = "flow" not in fault.name or all(sample.flow is not None for sample in samples.values())
        if not lowers or not plantable or (max(len(d.frames) for d in draws) < 2 and "mirrored" not in fault.name):
            continue
        faulty = scored(fault.name.replace(" ", "_"), fault.plant)
        worse = {name for name in measured if _worse(name, oracle, faulty)}
        told |= worse
        yield _told(f"{benchmark.name}: {fault.name}", lowers, worse, worse.intersection(fault.spares), every)
    if every:
        dead = [name for name in COLUMNS if name in measured - told and COLUMNS[name].main]
        said = f"no fault lowers {', '.join(dead)}" if dead else "every main measure is lowered by a fault"
        yield Check(f"{benchmark.name}: {said}", not dead)


def _told(name: str, lowers: List[str], worse: set[str], harmed: set[str], every: bool) -> Check:
    """Whether a fault lowers what it must, all or one of it, and spares what it must."""
    seen, blind = ([one for one in lowers if (one in worse) is wanted] for wanted in (True, False))
    said = f"lowers {', '.join(seen)}" if seen else f"is not seen by any of {', '.join(lowers)}"
    said += f", and not {', '.join(blind)}, which must tell" if every and seen and blind else ""
    said += f", and lowers {', '.join(sorted(harmed))}, which it does not touch" if harmed else ""
    return Check(f"{name}: {said}", bool(seen) and not harmed and not (every and blind))


def _perfect(name: str, rows: Iterable[Mapping]) -> Iterator[Check]:
    for row in rows:
        skipped = ("rta", "auc", "maa") if any(STATIC in note for note in row["notes"]) else ()
        short = [
            f"{measure} {value:.4g}"
            for measure, value in row["values"].items()
            if "_metric" not in measure and (not measure.startswith(skipped) or "strict" in measure)
            if abs(value - _best(measure)) > _tolerance(measure)
        ]
        said = "truth scores perfect" if not short else f"truth does not score perfect: {', '.join(short)}"
        said += f": {row['failed']}" if row["failed"] else ""
        yield Check(f"{name}: {row['sequence']}: {said}", not short and not row["failed"])


def _best(measure: str) -> float:
    if COLUMNS[measure].better == "lower":
        return 0.0
    return 1.0 if measure.startswith(("f@", "nc")) else 100.0


def _tolerance(measure: str) -> float:
    if COLUMNS[measure].group == "flow" and COLUMNS[measure].better == "lower":
        return FLOW_TOLERANCE
    return TOLERANCE[COLUMNS[measure].better] * (1 if _best(measure) != 1.0 else 0.1)


def _worse(measure: str, oracle: List[Mapping], faulty: List[Mapping]) -> bool:
    before, after = ([row["values"][measure] for row in rows if measure in row["values"]] for rows in (oracle, faulty))
    if not after:  # measured no more: told by nothing
        return False
    step = mean(after) - mean(before)
    return not (step if COLUMNS[measure].better == "lower" else -step) <= 5 * _tolerance(measure)


class World:
    """A held-out procedural world as a sequence with every label, and exact flow between neighbours."""

    def __init__(self, seed: int, count: int = 6, size: tuple[int, int] = (84, 112)) -> None:
        self.name, self.count, self.size, self.seed = f"world_{seed}", count, size, seed

    @cached_property
    def _world(self) -> Worlds:
        calm = WorldsConfig(held_out=True, moving_share=0.0)
        return render_worlds([2**40 + self.seed], self.count, self.size, config=calm, pairs=self._pairs)

    @property
    def _pairs(self) -> torch.Tensor:
        first = torch.arange(self.count - 1)
        return torch.stack([first, first + 1], dim=-1)[None]

    def __len__(self) -> int:
        return self.count

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Frame indices."""
        return np.arange(self.count, dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """With depth, intrinsics and pose."""
        views = self._world.views
        for k in check_indices(indices, self.count):
            image = (views.images[0, k].movedim(0, -1) * 255).round().byte().numpy()
            labels = (
                views.depth[0, k].numpy(),
                views.intrinsics[0, k].double(),
                views.world_from_camera[0, k].double(),
            )
            yield Frame(image, float(k), str(k), labels[0], labels[1].numpy(), labels[2].numpy())

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Those whose flow is labelled."""
        return tuple((i, i + 1) for i in range(self.count - 1))

    def pairs_among(self, frames: List[int]) -> tuple[tuple[int, int], ...]:
        """All of them: the whole world is always drawn."""
        return self.pairs

    def flow_among(self, frames: List[int]) -> Flow:
        """The renderer's."""
        return self._world.views.flow


WORLDS = Benchmark(
    name="worlds",
    title="procedural worlds",
    dataset="worlds",
    sampling=EveryNth(1),
    measures=("pose", "points", "depth", "flow"),
)


def selftest(
    root: Path | None = None, benchmarks: Iterable[Benchmark] = (), out: Path | None = None
) -> Iterator[Check]:
    """Check benchmarks with their data below `root`, or by default procedural worlds; `out` keeps what was scored."""
    with nullcontext(out) if out is not None else tempfile.TemporaryDirectory() as folder:
        if root is None:
            sequences = {world.name: world for world in map(World, range(MOST_DRAWS))}
            draws = make_manifest(WORLDS, sequences).draws
            yield from check_benchmark(WORLDS, sequences, draws, Path(), Path(folder, WORLDS.name), every=True)
            return
        for benchmark in benchmarks:
            try:
                sequences = benchmark.select(root).sequences
                draws = make_manifest(benchmark, sequences, 1).draws[:MOST_DRAWS]
            except InputError as error:
                yield Check(f"{benchmark.name}: {error}", False)
                continue
            yield from check_benchmark(benchmark, sequences, draws, root, Path(folder, benchmark.name))
