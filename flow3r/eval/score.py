"""Stage 2: samples against the truth, one JSON row for each draw of a manifest. Rows that are there stay.

A row is {benchmark, dataset, sequence, draw, stride, frames, profile, budget, sample_sha256, manifest_sha256,
truth, truth_sha256, definition, values, notes, facts, degenerate, failed}. It depends on the sample, the data and the
definitions alone: it holds no times, and is computed on one thread, whatever runs beside it.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from flow3r.data.frame import Sequence
from flow3r.data.labels import LabelStore
from flow3r.errors import InputError
from flow3r.eval.benchmarks import find_benchmark
from flow3r.eval.benchmarks.benchmark import LABELS, Benchmark
from flow3r.eval.benchmarks.manifests import Draw, Manifest
from flow3r.eval.measures import DEFINITION, Protocol, score_scene
from flow3r.eval.parallel import Where, in_parallel, one_thread
from flow3r.eval.predict import failure_path, row_sha256, sample_path
from flow3r.eval.report import Score
from flow3r.eval.samples import Sample, read_sample
from flow3r.eval.truth import Truth, no_prediction, worst_of_any_truth
from flow3r.files import sha256_of_file, sha256_of_json, write_text
from flow3r.metrics.points import FLOW3R, PI3
from flow3r.types import Flow, Prediction, Views

Profile = Literal["flow3r", "pi3"]
KEY = ("sequence", "draw", "sample_sha256", "manifest_sha256", "truth_sha256", "profile", "budget", "definition")
NO_TRUTH = "no truth: "  # how the reason of such a failure begins
UNREAD = "unread"  # in the place of truth_sha256 where no truth could be read: such a row is never done


@dataclass(frozen=True)
class Task:
    """One row to be scored, as another process is told of it."""

    benchmark: str
    root: Path
    draw: Draw
    sample: Path
    sample_sha256: str  # of the sample, or of the reason kept in its place; "" where there is neither
    manifest_sha256: str
    truth: str  # who made it, where it is no measurement
    truth_sha256: str
    profile: Profile
    budget: int | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes a row the same as another."""
        values = vars(self) | {"sequence": self.draw.sequence, "draw": self.draw.draw, "definition": DEFINITION}
        return tuple(values[name] for name in KEY)


def score(
    benchmark: Benchmark,
    manifest: Manifest,
    root: Path,
    samples: Path,
    scores: Path,
    *,
    profile: Profile | None = None,
    budget: int | None = None,
    workers: int = 1,
    sequences: Mapping[str, Sequence] | None = None,
    draws: Iterable[Draw] | None = None,
    where: Where = "processes",
) -> Iterator[dict[str, Any]]:
    """Score what is not scored yet, and yield the new rows as each is appended to the file `scores`, in any order.

    `samples` is the folder of one method and benchmark. `profile`: by default the benchmark's own. `budget` limits the
    points whose neighbours are sought. With several `workers`, processes of one thread each find the benchmark by its
    name; a single one may be given the `sequences`. `draws`: those of the manifest, each when its sample is made or has
    failed: the next may still be being predicted. What fails is a row with the worst values and the reason. Raises
    InputError for data that are not there, and for a score file that is damaged before its last line.
    """
    profile = profile or benchmark.profile
    done, kept, truth = keep_rows(scores), set(), pseudo_truth(benchmark, root)

    def tasks() -> Iterator[Task]:
        for draw in manifest.draws if draws is None else draws:
            path = sample_path(samples, draw)
            task = Task(benchmark.name, root, draw, path, _sha256(path), manifest.sha256, *truth, profile, budget)
            if task.key in done:
                kept.add(task.key)
            else:
                yield task

    if workers > 1 or where == "ray":
        rows = in_parallel(score_task, tasks(), where=where, workers=workers)
    else:
        found = functools.cache(lambda: benchmark.select(root).sequences if sequences is None else sequences)
        rows = (score_draw(task, benchmark, found()) for task in tasks())
    for row in rows:
        append_row(scores, row)
        kept.add(tuple(row[name] for name in KEY))
        yield row
    keep_rows(scores, kept)


def pseudo_truth(benchmark: Benchmark, root: Path) -> tuple[str, str]:
    """Who made a pseudo truth, and the sha256 of how and of its files, by name and size; ("", "") for a release.

    Rows of another pseudo truth are scored again.
    """
    folder = benchmark.folder(root)
    if not benchmark.pseudo or not folder.is_dir():
        return "", ""
    files = sorted((file.relative_to(folder).as_posix(), file.stat().st_size) for file in folder.rglob("*.*"))
    settings = LabelStore(folder).settings if benchmark.pseudo == LABELS else {}
    teacher = settings.get("teacher", "MegaSaM")
    return teacher["name"] if isinstance(teacher, dict) else str(teacher), sha256_of_json([files, settings])


def score_task(task: Task) -> dict[str, Any]:
    """`score_draw` with a benchmark and its sequences that the process keeps."""
    return score_draw(task, find_benchmark(task.benchmark), _sequences(task.benchmark, task.root))


@functools.lru_cache(maxsize=1)
def _sequences(benchmark: str, root: Path) -> Mapping[str, Sequence]:
    return find_benchmark(benchmark).select(root).sequences


def keep_rows(path: Path, keys: set[tuple[Any, ...]] | None = None) -> set[tuple[Any, ...]]:
    """Leave in a score file the rows of these keys alone (None: all), and return the keys that it has.

    A last line that was cut off goes, and so do rows of other samples, manifests and definitions.
    """
    if not path.is_file():
        return set()
    content = path.read_bytes()
    *lines, _ = content.split(b"\n")
    kept = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON ({error}): remove the line, or the file") from error
        key = tuple(row.get(name) for name in KEY)
        if keys is None or key in keys:
            kept[key] = _line(row)
    text = "".join(kept.values())
    if text.encode() != content:
        write_text(path, text)
    return set(kept)


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a score file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"


def _sha256(sample: Path) -> str:
    there = [path for path in (sample, failure_path(sample)) if path.is_file()]
    return sha256_of_file(there[0]) if there else ""


def protocol_of(benchmark: Benchmark, profile: Profile) -> Protocol:
    """What a benchmark measures; under another profile than its own, with that profile's definition of points."""
    points = benchmark.points if profile == benchmark.profile else {"flow3r": FLOW3R, "pi3": PI3}[profile]
    return Protocol(benchmark.measures, points, benchmark.farthest)


def score_draw(task: Task, benchmark: Benchmark, sequences: Mapping[str, Sequence]) -> dict[str, Any]:
    """The row of one draw."""
    protocol, draw = protocol_of(benchmark, task.profile), task.draw
    with one_thread():
        result, failed = _scored(task, protocol, sequences, benchmark.labels_vary)
    return {
        "benchmark": benchmark.name,
        "dataset": draw.dataset,
        "sequence": draw.sequence,
        "draw": draw.draw,
        "stride": draw.stride,
        "frames": list(draw.frames),
        "profile": task.profile,
        "budget": task.budget,
        "sample_sha256": task.sample_sha256,
        "manifest_sha256": task.manifest_sha256,
        "truth": task.truth,
        "truth_sha256": UNREAD if failed.startswith(NO_TRUTH) else task.truth_sha256,
        "definition": DEFINITION,
        "values": {name: float(value) for name, value in result.values.items()},
        "notes": dict(result.notes),
        "facts": dict(result.facts),
        "degenerate": result.degenerate,
        "failed": failed,
    }


def _scored(task: Task, protocol: Protocol, sequences: Mapping[str, Sequence], labels_vary: bool) -> tuple[Score, str]:
    """The score of a draw and why it failed, "" for an ordinary one."""
    draw, truth = task.draw, Truth(task.draw, protocol, sequences, labels_vary)
    if truth.fault:
        worst = worst_of_any_truth(protocol, len(draw.frames))
        return Score(draw.sequence, worst), f"{NO_TRUTH}{truth.fault}"
    protocol = truth.protocol
    try:
        sample = _checked(task, protocol)
        views = truth.on_grid(sample.grid_from_image, sample.size)
        prediction = _with_pairs(sample.prediction(), views)
        found = score_scene(prediction, views, 0, task.budget, protocol)
        height, width = sample.size
        found = replace(found, facts={**found.facts, "height": height, "width": width})
        return truth.noted(found), _nothing_right(found, prediction, protocol)
    except InputError as error:
        reason = str(error).removeprefix(f"{task.sample}: ")
    except (ValueError, RuntimeError) as error:  # such as a decomposition of numbers beyond all bounds
        reason = f"cannot be scored: {type(error).__name__}: {error}"
    height, width = truth.sizes[0]  # of the frames themselves: no method's grid has more pixels to be wrong by
    views = truth.on_grid(np.stack([np.diag([width / w, height / h, 1.0]) for h, w in truth.sizes]), (height, width))
    return truth.noted(score_scene(no_prediction(views), views, 0, task.budget, protocol)), reason


def _checked(task: Task, protocol: Protocol) -> Sample:
    """The sample of a task. Raises InputError for none, for a broken one, and for one of other frames."""
    path, wanted = task.sample, list(task.draw.frames)
    if not path.is_file():
        kept = failure_path(path)
        if not kept.is_file():
            raise InputError("there is no sample")
        raise InputError(f"the method gave no sample: {json.loads(kept.read_text(encoding='utf-8'))['reason']}")
    sample = read_sample(path)
    frames = sample.frames.tolist()
    if frames != wanted:
        order = "in another order" if sorted(frames) == wanted else "others than those of the manifest"
        raise InputError(f"its frames are {order}: expected {_few(wanted)}, got {_few(frames)}")
    if sample.facts.get("row", row_sha256(task.draw)) != row_sha256(task.draw):
        raise InputError("its 'row' in facts is that of another sequence or of other frames")
    if "flow" in protocol.groups and sample.flow is None:
        raise InputError("it has no flow, which the benchmark measures")
    return sample


def _few(frames: list[int]) -> str:
    return f"{frames[:8]}{' ...' if len(frames) > 8 else ''}"


def _with_pairs(prediction: Prediction, views: Views) -> Prediction:
    """The prediction with flow of the true pairs, in their order; NaN for those that it does not give."""
    if views.flow is None or prediction.flow is None:
        return prediction
    place = {tuple(pair): position for position, pair in enumerate(prediction.flow.pairs[0].tolist())}
    displacement = torch.full_like(views.flow.displacement, torch.nan)
    for position, pair in enumerate(views.flow.pairs[0].tolist()):
        if tuple(pair) in place:
            displacement[0, position] = prediction.flow.displacement[0, place[tuple(pair)]]
    return replace(prediction, flow=Flow(views.flow.pairs, displacement, None))


def _nothing_right(found: Score, prediction: Prediction, protocol: Protocol) -> str:
    """Why a whole group of measures has the worst values; "" where none has."""
    reasons = [note for note in found.notes if note.startswith(("points failed", "depth failed"))]
    poses, flow = prediction.world_from_camera, prediction.flow
    if "pose" in protocol.groups and not poses.flatten(2).isfinite().all(2).any():
        reasons.append("no predicted camera is finite")
    if "flow" in protocol.groups and flow is not None and not flow.displacement.isfinite().any():
        reasons.append("no predicted flow is finite, or of a labelled pair")
    return "; ".join(reasons)
