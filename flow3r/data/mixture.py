"""What each step of a run sees: scenes of labelled and unlabelled sources, as a pure function of (run, step, rank).

Since a batch depends on nothing else, workers, and a run that was killed and resumed, agree on it. A step's kind, its
source, its number of views and its grid are drawn from a stream that all ranks share; which scenes, how a failed draw
is replaced, and how images are augmented, from streams of each rank's own.
"""

import hashlib
import math
import multiprocessing.connection
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.augment import augment
from flow3r.data.beside import made_beside
from flow3r.data.sampling import ordered_pairs
from flow3r.data.worlds import render_worlds
from flow3r.errors import InputError, LabelStoreError, TrainingError
from flow3r.types import OnDevice, Views

TRAINING_SEEDS = 2**40  # worlds below are for training, those from here on for measuring
BAD_SAMPLE = (InputError, LabelStoreError, OSError)  # data that cannot be read; all other errors are ours, and stop
ATTEMPTS = 10  # π³: draws for one batch
_LEAST_JUDGED = 1000  # scenes that the budget of bad samples is taken of at least, so that early ones do not stop


@dataclass(frozen=True)
class Wanted:
    """What a step asks of its source, the same on all ranks."""

    step: int
    scenes: int
    views: int
    size: tuple[int, int]  # (H, W)
    pairs: int  # ordered pairs with flow for each scene, where the source knows flow; 0: no flow


class Source(ABC):
    """Scenes to learn from: labelled ones with depth, intrinsics and poses, or unlabelled clips with flow labels.

    `in_process`: it draws on an accelerator, so that worker processes cannot; a thread beside the training step does.
    """

    in_process: bool = False

    @abstractmethod
    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes that depend on the arguments alone. Raises one of BAD_SAMPLE where what was drawn cannot be read."""

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """What it can give of what is wanted, for one that cannot give everything. All ranks call it alike."""
        return wanted

    def counts(self) -> Counter[str]:
        """What it has counted in this process so far, by names for the log."""
        return Counter()


Weighted = Sequence[tuple[Source, float]]  # sources, and how often each is drawn in proportion to the others


@dataclass(frozen=True)
class RenderedWorlds(Source):
    """Procedural worlds, the source where no other is given; harder along the curriculum."""

    config: DataConfig
    device: torch.device | str = "cpu"

    @property
    def in_process(self) -> bool:
        return torch.device(self.device).type != "cpu"

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """New worlds, with exact flow."""
        pairs = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator) if wanted.pairs else None
        seeds = torch.randint(0, TRAINING_SEEDS, (wanted.scenes,), generator=generator).tolist()
        curriculum = self.config.curriculum_steps
        worlds = render_worlds(
            seeds,
            wanted.views,
            wanted.size,
            config=self.config.worlds,
            pairs=pairs,
            difficulty=min(1.0, wanted.step / curriculum) if curriculum else 1.0,
            device=self.device,
        )
        return worlds.views


def stream(seed: int, step: int, purpose: str, rank: int = 0) -> torch.Generator:
    """A random stream for one purpose of one step on one rank, independent of all others.

    A generator has 2^32 streams, so that of very many some two are the same.
    """
    name = f"{seed}/{step}/{purpose}" + (f"/{rank}" if rank else "")
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)


def draw_integer(low: int, high: int, generator: torch.Generator) -> int:
    """An integer in [low, high], uniform."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def grids(tokens: tuple[int, int], aspect: tuple[float, float]) -> list[tuple[int, int]]:
    """All (rows, columns) of patches with a token count and an aspect (width / height) in the given ranges."""
    longest = math.ceil(math.sqrt(tokens[1] * max(aspect[1], 1 / aspect[0])))
    sides = range(1, longest + 1)
    return [(h, w) for h in sides for w in sides if tokens[0] <= h * w <= tokens[1] and aspect[0] <= w / h <= aspect[1]]


def draw_pairs(scenes: int, views: int, count: int, generator: torch.Generator) -> Int[Tensor, "B P 2"]:
    """Distinct ordered pairs i != j per scene, uniform; all of them where there are no more than `count`."""
    every = torch.tensor(ordered_pairs(views))
    order = torch.rand(scenes, len(every), generator=generator).argsort(dim=1)
    return every[order[:, :count]]


@dataclass(frozen=True)
class Plan:
    """What all ranks agree on in a step; `shared` is the stream that it was drawn from."""

    source: Source
    wanted: Wanted
    shared: torch.Generator


@dataclass(frozen=True)
class Batch(OnDevice):
    """A step's views, None where all attempts failed; what was wrong with the draws that they replace; and what the
    source counted."""

    views: Views | None
    scenes: int
    failures: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


class StepBatches(Dataset):
    """The batches of a run by step, for one of its ranks. `clips` and `labelled`: a source, or several with weights.

    Without `labelled` these are worlds, rendered on `device`. For a CPU they are augmented as they are made; for an
    accelerator, which is faster at that, by whoever brings them there.
    """

    def __init__(
        self,
        config: TrainConfig,
        clips: Source | Weighted | None = None,
        device: torch.device | str = "cpu",
        *,
        labelled: Source | Weighted | None = None,
        rank: int = 0,
    ):
        self.config, self.rank, self.device = config, rank, torch.device(device)
        self.labelled = _weighted(labelled) or [(RenderedWorlds(config.data, device), 1.0)]
        self.unlabelled = _weighted(clips)

    def __len__(self) -> int:
        return self.config.steps

    def plan(self, step: int) -> Plan:
        """What all ranks draw in a step, each from its own stream."""
        data, shared = self.config.data, stream(self.config.seed, step, "batch")
        unlabelled = bool(self.unlabelled) and bool(torch.rand((), generator=shared) < data.unlabelled_share)
        small = step < data.small_steps
        source = _pick(self.unlabelled if unlabelled else self.labelled, shared)
        views = draw_integer(*data.views, shared)
        scenes = max(1, (data.small_images if small else data.images_per_batch) // views)
        patch = self.config.model.encoder.patch
        shapes = grids(data.small_tokens if small else data.tokens, data.aspect)
        rows, columns = shapes[draw_integer(0, len(shapes) - 1, shared)]
        pairs = data.pairs_per_scene if self.config.model.flow else 0
        wanted = Wanted(step, scenes, views, (rows * patch, columns * patch), pairs)
        return Plan(source, source.fit(wanted, shared), shared)

    def __getitem__(self, step: int) -> Batch:
        plan, failures = self.plan(step), []
        views, before = None, Counter(plan.source.counts())
        for attempt in range(ATTEMPTS):
            try:
                views = plan.source.draw(plan.wanted, self._own(step, attempt, plan.shared))
                break
            except BAD_SAMPLE as error:
                failures.append(str(error))
        if views is not None and self.device.type == "cpu":
            views = self.augmented(views, step)
        return Batch(views, plan.wanted.scenes, tuple(failures), plan.source.counts() - before)

    def augmented(self, views: Views, step: int) -> Views:
        """The views of a step with their colours and sharpness changed, if the run has it so."""
        if not self.config.data.augment:
            return views
        return augment(views, self.config.data.augmentation, stream(self.config.seed, step, "augmentation", self.rank))

    def _own(self, step: int, attempt: int, shared: torch.Generator) -> torch.Generator:
        """This rank's stream of scenes. Rank 0 goes on with the shared one, where the others leave it."""
        if attempt == 0 and self.rank == 0:
            return shared
        return stream(self.config.seed, step, f"batch, attempt {attempt}", self.rank)


class Tally:
    """Counts a rank's scenes and draws that failed, and what its sources count, by name.

    Those of before a resumption are given as `state` returned them; what an older run did not save begins at nothing.
    """

    def __init__(self, budget: float, scenes: int = 0, bad: int = 0, counts: Mapping[str, int] | None = None):
        self.budget, self.scenes, self.bad = budget, scenes, bad
        self.counts: Counter[str] = Counter(counts)

    def add(self, batch: Batch, step: int) -> Views:
        """The batch's views. Raises TrainingError where there are none, and beyond the budget of bad samples."""
        self.scenes += batch.scenes
        self.bad += len(batch.failures)
        self.counts += batch.counts
        if batch.views is None:
            raise TrainingError(
                f"step {step}: {len(batch.failures)} draws in a row could not be read, the last: {batch.failures[-1]}"
            )
        if self.bad > self.budget * max(self.scenes, _LEAST_JUDGED):
            raise TrainingError(
                f"step {step}: {self.bad} draws could not be read among {self.scenes} scenes; expected a share of at "
                f"most {self.budget:g} (bad_sample_budget); the last: {batch.failures[-1]}"
            )
        return batch.views

    def state(self) -> tuple[int, int, dict[str, int]]:
        """What a resumed run needs to go on: scenes, failed draws, and what sources counted, by name."""
        return self.scenes, self.bad, dict(self.counts)

    def records(self) -> dict[str, float]:
        """For the log: the share of scenes that could not be read, if there were any, and what sources counted.

        Both are of this rank alone: what a run logs is rank 0's, not the sum over ranks.
        """
        unread = {"unread": self.bad / self.scenes} if self.bad else {}
        return unread | {name: float(count) for name, count in sorted(self.counts.items())}


def iterate_batches(
    config: TrainConfig,
    first_step: int,
    clips: Source | Weighted | None,
    device: torch.device,
    *,
    labelled: Source | Weighted | None = None,
    rank: int = 0,
    tally: Tally | None = None,
) -> Iterator[Views]:
    """Batches from `first_step` on, on `device`: read ahead by workers, or where sources draw in this process, by a
    thread of it; without workers, when they are asked for.

    A draw that cannot be read is replaced by another of the same source, and counted in `tally`. Raises TrainingError
    where that does not help, or happens too often, and where a worker has died whose batch is next.
    """
    batches = StepBatches(config, clips, device, labelled=labelled, rank=rank)
    tally = tally or Tally(config.data.bad_sample_budget)

    def ready(batch: Batch, step: int) -> Batch:
        """On the device, and augmented; for a CPU it was, as it was made."""
        if batch.views is None or device.type == "cpu":
            return batch
        return replace(batch, views=batches.augmented(batch.views.to(device), step))

    def made_here(step: int) -> Batch:
        return ready(batches[step], step)

    def is_beside(step: int) -> bool:
        return batches.plan(step).source.in_process

    steps, idle = range(first_step, config.steps), threading.Lock()
    ahead = _made_ahead(batches, (step for step in steps if not is_beside(step)), idle)
    beside = made_beside(made_here, (step for step in steps if is_beside(step)), device, idle)
    for step in steps:
        try:
            if config.data.workers == 0:
                batch = made_here(step)
            else:
                batch = next(beside) if is_beside(step) else ready(next(ahead), step)
        except DeadWorker as death:
            raise TrainingError(f"step {step}: {death}") from death
        yield tally.add(batch, step)


class DeadWorker(Exception):
    """A process that made batches ahead is no more; the message says which, how it ended, and what to do."""


def _made_ahead(batches: StepBatches, steps: Iterable[int], idle: threading.Lock) -> Iterator[Batch]:
    """The batches of some steps, by workers that start when the first is asked for, while nobody holds `idle`."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=batches.config.data.workers,
        prefetch_factor=4,
        worker_init_fn=_outlive_one_termination,
    )
    others = set(multiprocessing.active_children())
    with idle, _deaths_found_late():
        made = iter(loader)
    workers = [child for child in multiprocessing.active_children() if child not in others]
    while True:
        try:
            batch = next(made)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # also where a batch that it had made is lost with it
            multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=1)  # for one that is dying
            if not any(worker.exitcode for worker in workers):
                raise
            message = _obituary(workers)
            for worker in workers:
                worker.kill()  # the others may wait for what the dead one held
            raise DeadWorker(message) from error
        yield batch


@contextmanager
def _deaths_found_late() -> Iterator[None]:
    """Torch's handler of SIGCHLD, which it sets in this context, would raise in the middle of a step: without it, the
    death of a worker is found where its batch is missing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def _obituary(workers: list[multiprocessing.process.BaseProcess]) -> str:
    dead = [worker for worker in workers if worker.exitcode]
    ends = [
        f"{worker.pid} by {signal.Signals(-worker.exitcode).name}" if worker.exitcode < 0 else f"{worker.pid} by itself"
        for worker in dead
    ]
    return (
        f"of {len(workers)} processes that read data ahead, {len(dead)} ended ({', '.join(ends)}). SIGKILL mostly "
        "means that memory ran out: give more, or set `workers` of the data to fewer, or to 0 to read in the main "
        "process (--workers). The same command goes on from the last checkpoint"
    )


def _outlive_one_termination(worker: int) -> None:
    """A scheduler sends SIGTERM to workers too, which the run needs until its step is saved; a second one ends them."""
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _weighted(sources: Any) -> Weighted:
    if sources is None or isinstance(sources, Sequence):
        return sources or []
    return [(sources, 1.0)]


def _pick(sources: Weighted, generator: torch.Generator) -> Source:
    """One of the sources in proportion to their weights; a single one takes no random number."""
    if len(sources) == 1:
        return sources[0][0]
    weights = torch.tensor([weight for _, weight in sources])
    return sources[int(torch.multinomial(weights, 1, generator=generator))][0]
