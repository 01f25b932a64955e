"""Stage 1: a method's samples of a manifest, one file each. What is there already is not made again."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flow3r.data.frame import Frame, Sequence
from flow3r.errors import InputError
from flow3r.eval.benchmarks.labelled_segments import FlowLabelled
from flow3r.eval.benchmarks.manifests import Draw
from flow3r.eval.methods import Method
from flow3r.eval.samples import read_facts, write_sample
from flow3r.files import write_bytes, write_json


@dataclass(frozen=True)
class Predicted:
    """What became of one draw. `reason`: why there is no sample; "" where there is one."""

    draw: Draw
    path: Path
    made: bool  # now, not by an earlier run
    reason: str = ""


def sample_path(folder: Path, draw: Draw) -> Path:
    """Where the sample of a draw lies below a folder of a method and a benchmark.

    Raises InputError for a sequence whose name would lead out of the folder.
    """
    if any(part in ("..", ".", "") for part in draw.sequence.split("/")):
        raise InputError(f"{draw.sequence!r}: not a sequence name that a file can be called by")
    return folder / draw.sequence / f"{draw.draw}.npz"


def failure_path(sample: Path) -> Path:
    """Where the reason is kept why a sample could not be made."""
    return sample.with_suffix(".failed.json")


def row_sha256(draw: Draw) -> str:
    """Identifies the frames that a sample is of."""
    said = [draw.dataset, draw.sequence, list(draw.frames)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def predict(
    method: Method, draws: Iterable[Draw], sequences: Mapping[str, Sequence], folder: Path
) -> Iterator[Predicted]:
    """Make the missing samples in order, each when it is asked for, so that others can be scored meanwhile.

    `folder` is of one method and benchmark. Of sequences with labelled flow, the method is asked for that of their
    pairs. A sample counts as made if its facts name the method's fingerprint and the draw's frames; draws of the same
    frames, as short sequences have, share one. What a method raises, or a dataset that cannot be read, is kept beside
    the place of the sample, and tried again by the next run.
    """
    made: dict[str, Path] = {}
    for draw in draws:
        path = sample_path(folder, draw)
        wanted = {"fingerprint": method.fingerprint, "row": row_sha256(draw)}
        if path.is_file() and _facts(path).items() >= wanted.items():
            made[wanted["row"]] = path
            yield Predicted(draw, path, made=False)
            continue
        path.unlink(missing_ok=True)
        if wanted["row"] in made:
            write_bytes(path, made[wanted["row"]].read_bytes())
            failure_path(path).unlink(missing_ok=True)
            yield Predicted(draw, path, made=True)
            continue
        try:
            if draw.sequence not in sequences:
                raise InputError(f"{draw.sequence}: no such sequence in the dataset")
            sequence = sequences[draw.sequence]
            frames = list(sequence.frames(draw.frames))
            pairs = sequence.pairs_among(draw.frames) if isinstance(sequence, FlowLabelled) else ()
            shown = [_unlabelled(frame) for frame in frames]
            begun = time.perf_counter()
            sample = method(shown, pairs)
            seconds = time.perf_counter() - begun
        except Exception as error:  # whatever a method raises costs one sample, and is said
            reason = f"{type(error).__name__}: {error}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(failure_path(path), wanted | {"method": method.name, "reason": reason})
            yield Predicted(draw, path, made=True, reason=reason)
            continue
        facts = {**sample.facts, "method": method.name, "seconds": round(seconds, 4), **wanted}
        write_sample(path, replace(sample, frames=np.array(draw.frames), facts=facts))
        failure_path(path).unlink(missing_ok=True)
        made[wanted["row"]] = path
        yield Predicted(draw, path, made=True)


def _unlabelled(frame: Frame) -> Frame:
    return Frame(frame.image, frame.timestamp, frame.name)


def _facts(path: Path) -> Mapping[str, object]:
    """Of a sample; nothing of a file that is not one."""
    try:
        return read_facts(path)
    except InputError:
        return {}
