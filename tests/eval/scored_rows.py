"""Score rows made by hand, as stage 2 writes them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flow3r.eval.benchmarks.manifests import Draw, Manifest, write_manifest
from flow3r.eval.tables.collect import Results, results_of


def manifest(benchmark: str, sequences: int = 3, draws: int = 2, strides: tuple[int, ...] = (1, 2)) -> Manifest:
    made = [
        Draw(benchmark, f"s{s}", d, stride := strides[(s + d) % len(strides)], tuple(range(0, 8 * stride, stride)), 90)
        for s in range(sequences)
        for d in range(draws)
    ]
    return Manifest(benchmark, tuple(made))


def row(draw: Draw, of: Manifest, values: Mapping[str, float], **changed: Any) -> dict[str, Any]:
    """The row of one draw."""
    ordinary = {
        "benchmark": of.benchmark, "dataset": draw.dataset, "sequence": draw.sequence, "draw": draw.draw,
        "stride": draw.stride, "frames": list(draw.frames), "profile": "flow3r", "sample_sha256": "ab",
        "manifest_sha256": of.sha256, "truth": "", "definition": 1, "values": dict(values), "notes": {},
        "degenerate": False, "budget": None, "facts": {"s": 2.0},
        "failed": "",
    }  # fmt: skip
    return ordinary | changed


def rows(of: Manifest, values: Mapping[str, float], **changed: Any) -> list[dict[str, Any]]:
    """Rows of all draws; a value grows by a hundredth with the sequence and by a thousandth with the draw."""
    made = []
    for d in of.draws:
        grown = {k: v + 0.01 * int(d.sequence[1:]) + 0.001 * d.draw for k, v in values.items()}
        made.append(row(d, of, grown, **changed))
    return made


def scored(method: str, benchmark: str, values: Mapping[str, float], sequences: int = 3, **changed: Any) -> Results:
    """Complete results of a method on a benchmark."""
    of = manifest(benchmark, sequences)
    return results_of(method, changed.get("profile", "flow3r"), rows(of, values, **changed), of)


def write_scores(
    out: Path, method: str, of: Manifest, lines: Iterable[Mapping[str, Any]], profile: str = "flow3r"
) -> Path:
    """A score file and its manifest, where `read_scores` looks for them."""
    path = out / "scores" / method / f"{of.benchmark}.{profile}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(out / "manifests" / f"{of.benchmark}.jsonl", of)
    return path
