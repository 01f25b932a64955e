"""Rules by which a benchmark takes sequences of a dataset, where no list of names is published."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from flow3r.data.catalogue import DATASETS
from flow3r.data.datasets.dataset import scenes_for_tests
from flow3r.data.datasets.packed import is_packed
from flow3r.eval.benchmark import Benchmark, Choice
from flow3r.eval.samplings import SEED


def held_out(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
    """What no run learns from, as the dataset's reader says."""
    return benchmark.reader(folder).held_out(folder)


def held_out_clips(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
    """Segments of a label store that are of videos no run learns from.

    The videos are those that the reader holds out of ROOT/<dataset>; without that folder, those that its rule (by hash
    of a clip's own name) holds out of what the store has.
    """
    sources = {name: name.rpartition("/")[0] for name in there}
    videos = root / benchmark.dataset
    if videos.is_dir() and not is_packed(videos):
        tests = set(DATASETS[benchmark.dataset].held_out(videos))
        return [name for name, source in sources.items() if source in tests]
    clips = {name: source.rpartition("/")[2] for name, source in sources.items()}
    tests = scenes_for_tests(benchmark.dataset, set(clips.values()))
    return [name for name, clip in clips.items() if clip in tests]


def held_out_results(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
    """Pseudo ground truth but for that of videos in ROOT/<dataset> that are learnt from, where its reader says which.

    A result is called as its video is, with or without more after it, such as P01_101 and P01_101_000250.
    """
    videos = root / benchmark.dataset
    if not videos.is_dir() or is_packed(videos):
        return there
    reader = DATASETS[benchmark.dataset]
    tests = set(reader.held_out(videos))
    learnt = [f"{video.name}_" for video in reader.sequences(videos) if video.name not in tests] if tests else []
    return [name for name in there if not any(f"{name}_".startswith(video) for video in learnt)]


def first_by_hash(count: int) -> Choice:
    """At most `count` sequences, those with the lowest SHA-256 of "flow3r-eval-v1|<dataset>|<name>".

    Left out are those called as a clip of the part train/ of ROOT/<dataset>, where that folder is there: a run may have
    learnt from them.
    """

    def choose(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
        train = root / benchmark.dataset / "train"
        learnt = {file.stem for file in train.rglob("*.*")} if train.is_dir() else set()

        def place(name: str) -> tuple[str, str]:
            return hashlib.sha256(f"{SEED}|{benchmark.dataset}|{name}".encode()).hexdigest(), name

        return sorted((name for name in there if name not in learnt), key=place)[:count]

    return choose


def matching(start: str, end: str) -> Choice:
    """All sequences whose names start and end so."""

    def choose(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
        return [name for name in there if name.startswith(start) and name.endswith(end)]

    return choose
