"""Every benchmark that there is, by the name that the command line and files use."""

from difflib import get_close_matches

from flow3r.errors import InputError
from flow3r.eval.benchmarks.benchmark import Benchmark
from flow3r.eval.benchmarks.own_rows import OWN_ROWS
from flow3r.eval.benchmarks.paper_rows import PAPER_ROWS
from flow3r.eval.benchmarks.pi3_rows import PI3_ROWS

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (*PAPER_ROWS, *PI3_ROWS, *OWN_ROWS)}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises InputError with the nearest names there are."""
    if name not in BENCHMARKS:
        nearest = get_close_matches(name, BENCHMARKS, n=3, cutoff=0.0)
        raise InputError(f"no benchmark is called {name!r}; nearest are {', '.join(nearest)} (flow3r eval --help)")
    return BENCHMARKS[name]
