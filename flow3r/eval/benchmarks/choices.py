"""Rules by which a benchmark takes sequences of a dataset, where no list of names is published."""

from collections.abc import Collection
from pathlib import Path

from flow3r.data.catalogue import DATASETS
from flow3r.data.datasets.dataset import scenes_for_tests
from flow3r.data.datasets.packed import is_packed
from flow3r.eval.benchmarks.benchmark import Benchmark, Choice


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


def matching(start: str, end: str) -> Choice:
    """All sequences whose names start and end so."""

    def choose(benchmark: Benchmark, root: Path, folder: Path, there: Collection[str]) -> Collection[str]:
        return [name for name in there if name.startswith(start) and name.endswith(end)]

    return choose
