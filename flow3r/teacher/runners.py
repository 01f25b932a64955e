"""Who labels the shards: processes of this machine, ranks of torchrun or SLURM, actors of a Ray cluster.

All do the same shards, in any mixture and order, at once or one after the other: what is finished is found, what is
being done is leased, what was begun by a worker that died is gone on with.
"""

import contextlib
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flow3r.data.labels import LabelStore, segment_of
from flow3r.data.pair_index import write_pair_index
from flow3r.data.shards import read_shard
from flow3r.errors import InputError, LabelStoreError
from flow3r.teacher.label import LabelSettings, LabelSummary, Source, summarise
from flow3r.teacher.leases import LEASE
from flow3r.teacher.shard_job import PER_SHARD, TIMEOUT, WORK, cut_shards, label_shard, shard_path
from flow3r.teacher.watch import Watched
from flow3r.types import Teacher

_WAIT = 2.0  # seconds before shards that others hold are looked at again


@dataclass(frozen=True)
class Patience:
    """In seconds: how long a source may be silent, and a worker not renew its lease."""

    timeout: float = TIMEOUT
    lease_seconds: float = LEASE


def work(
    shards: Sequence[Sequence[Source]],
    out: str | Path,
    teacher: Teacher,
    settings: LabelSettings,
    *,
    rank: int = 0,
    world: int = 1,
    patience: Patience = Patience(),
) -> None:
    """Every `world`-th shard from number `rank` on, then what others have left, until all are finished."""
    others = [shard for k, shard in enumerate(shards) if k % world != rank]
    begin = len(others) * rank // world
    waiting = [*shards[rank::world], *others[begin:], *others[:begin]]
    with Watched(teacher, settings, patience.timeout) as child:
        while waiting:
            finished = set(os.listdir(out)) if Path(out).exists() else set()
            waiting = [shard for shard in waiting if shard_path(shard, out).name not in finished]
            options = {**asdict(patience), "child": child}
            done = [label_shard(shard, out, teacher, settings, **options) for shard in waiting]
            if done and not any(done):
                time.sleep(min(_WAIT, patience.lease_seconds / 2))


def run_local(
    sources: Sequence[Source],
    out: str | Path,
    teacher: Teacher,
    settings: LabelSettings,
    *,
    processes: int = 0,
    per_shard: int = PER_SHARD,
    patience: Patience = Patience(),
) -> LabelSummary:
    """Label on `processes` of this machine (0: one for every core), each with a child that does the work.

    Raises LabelStoreError as `label_shard`, and if processes died before all was labelled.
    """
    job = _Job(sources, out, teacher, settings, per_shard)
    count = min(processes or len(os.sched_getaffinity(0)), len(job.shards))
    if count == 1:
        work(job.shards, out, teacher, settings, patience=patience)
        return job.finish()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=_work_below,
            args=(job.shards, out, teacher, settings),
            kwargs={"rank": rank, "world": count, "patience": patience},
        )
        for rank in range(count)
    ]
    try:
        for worker in workers:
            worker.start()
        running = {worker.sentinel: worker for worker in workers}
        while running:  # whichever ends first: until it is joined, a dead one still counts as the holder of its lease
            for sentinel in multiprocessing.connection.wait(list(running)):
                running.pop(sentinel).join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    return job.finish()


def _work_below(*arguments: Any, **options: Any) -> None:
    """`work` in a process that ends with its parent, however that ends."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    work(*arguments, **options)


def run_rank(
    sources: Sequence[Source],
    out: str | Path,
    teacher: Teacher,
    settings: LabelSettings,
    *,
    per_shard: int = PER_SHARD,
    patience: Patience = Patience(),
) -> LabelSummary:
    """One rank of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or of a SLURM step (SLURM_PROCID, SLURM_NTASKS, ...).

    Ranks need no network between them, only the folder; each sees the GPU of its local rank. The index of pairs is
    rank 0's to write.
    """
    rank, world = rank_and_world()
    _take_gpu()
    job = _Job(sources, out, teacher, settings, per_shard)
    work(job.shards, out, teacher, settings, rank=rank, world=world, patience=patience)
    return job.finish(with_index=rank == 0)


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes this is, from the environment; (0, 1) where it says nothing."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            return int(os.environ[rank]), int(os.environ[world])
    return 0, 1


def _take_gpu() -> None:
    """Of several GPUs that this process and its children see, leave the one of the local rank."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if local is None or visible == "":
        return
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = local
    elif "," in visible:
        names = visible.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[int(local) % len(names)]


class RayLabeller:
    """An actor that labels shards: a row of a Ray data set is one."""

    def __init__(self, out: str, teacher: Teacher, settings: LabelSettings, patience: Patience):
        self.arguments, self.patience = (out, teacher, settings), patience

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        work([json.loads(row["shard"])], *self.arguments, patience=self.patience)
        return row


def run_ray(
    sources: Sequence[Source],
    out: str | Path,
    teacher: Teacher,
    settings: LabelSettings,
    *,
    actors: int | tuple[int, int],
    gpus: float = 0.0,
    cpus: float = 1.0,
    per_shard: int = PER_SHARD,
    patience: Patience = Patience(),
) -> LabelSummary:
    """Label with a pool of Ray Data actors, or from a least to a most number of them, on the cluster that is connected
    (`ray.init`), else on this machine.

    `gpus` and `cpus` are those of an actor; gpus=0.25 puts four on a card. Ray starts dead actors again and gives
    their shards to others; a shard is handed out when an actor is free. Raises InputError without ray.
    """
    try:
        import ray.data
    except ImportError as error:
        raise InputError("labelling on Ray needs ray; install flow3r[scale]") from error
    job = _Job(sources, out, teacher, settings, per_shard)
    out = str(Path(out).resolve())
    rows = [{"shard": json.dumps(shard)} for shard in job.shards]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        RayLabeller,
        fn_constructor_args=(out, teacher, settings, patience),
        compute=ray.data.ActorPoolStrategy(**_pool(actors), max_tasks_in_flight_per_actor=1),
        num_gpus=gpus or None,
        num_cpus=cpus,
    )
    for _ in done.iter_rows():
        pass
    return job.finish()


def _pool(actors: int | tuple[int, int]) -> dict[str, int]:
    return {"size": actors} if isinstance(actors, int) else {"min_size": actors[0], "max_size": actors[1]}


class _Job:
    """The shards of a run, checked before they are handed out, and what became of them."""

    def __init__(self, sources: Sequence[Source], out: str | Path, teacher: Teacher, settings: LabelSettings, per: int):
        if not sources:
            raise InputError("no video given; expected at least one video, folder or glob")
        self.started, self.out = time.monotonic(), Path(out)
        self.store = LabelStore(out, settings.with_teacher(teacher))
        self.shards = cut_shards(sources, per)
        self.before = {path.name for path in self.out.glob("shard-*.tar")}

    def finish(self, with_index: bool = True) -> LabelSummary:
        """The summary of the shards of this run, all of them; writes the index of the store's pairs.

        Raises LabelStoreError if some are not there.
        """
        paths = [shard_path(shard, self.out) for shard in self.shards]
        missing = sum(not path.exists() for path in paths)
        if missing:
            raise LabelStoreError(
                f"{self.out}: {missing} of {len(paths)} shards are not labelled: the processes ended before, see above "
                "for why; the same command goes on"
            )
        infos, failures, skipped, written = [], [], [], 0
        for path in paths:
            shard = read_shard(str(path))
            infos += [segment_of(header) for header, _ in shard.segments]
            failures += [tuple(pair) for pair in shard.report["failures"]]
            skipped += [tuple(pair) for pair in shard.report["skipped"]]
            written += 0 if path.name in self.before else len(shard.segments)
        copies = self.store.distinct()[1]
        skipped += [(copy, f"the same content as {source}, in another shard") for copy, source in copies.items()]
        with contextlib.suppress(OSError):  # others' work may lie there
            (self.out / WORK).rmdir()
        if with_index and importlib.util.find_spec("pyarrow"):
            write_pair_index(self.store)
        return summarise(
            sum(map(len, self.shards)),
            infos,
            failures,
            skipped=skipped,
            written=written,
            size=sum(path.stat().st_size for path in paths),
            seconds=time.monotonic() - self.started,
        )
