"""Manifests: which frames of which sequences a benchmark measures, fixed in a file before anything is predicted.

A manifest is JSON lines, one for each draw, sorted by sequence and draw: {dataset, sequence, draw, stride, frames, n}.
Those whose sequences and lengths are known facts are part of the package, in the folder drawn/ beside this file; others
are made from the data at hand, by the same rule, so that everybody who has the same sequences gets the same file. What
such a manifest leaves out is said in a file beside it, <benchmark>.left_out.json.
"""

import json
from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from flow3r.errors import Flow3rError, InputError
from flow3r.eval.benchmarks.benchmark import Benchmark
from flow3r.eval.benchmarks.samplings import Lot
from flow3r.files import sha256_of_bytes, write_json, write_text

DRAWS = 5  # of each sequence; ours: the first is the headline, all feed the intervals


@dataclass(frozen=True)
class Draw:
    """The frames of a sequence that one measurement sees. Indices are those of the benchmark's sequence, ascending."""

    dataset: str
    sequence: str
    draw: int
    stride: int  # 0: not evenly spaced
    frames: tuple[int, ...]
    n: int  # frames of the whole sequence


@dataclass(frozen=True)
class Manifest:
    """All draws of a benchmark, sorted, and what was left out when it was made, which stands in a file beside them."""

    benchmark: str
    draws: tuple[Draw, ...]
    skipped: Mapping[str, str] = field(default_factory=dict, compare=False)  # sequence -> reason
    missing: tuple[str, ...] = field(default=(), compare=False)  # sequences that should be measured and were not there

    @property
    def text(self) -> str:
        """The content of its file."""
        return "".join(json.dumps(asdict(draw), ensure_ascii=False) + "\n" for draw in self.draws)

    @property
    def sha256(self) -> str:
        """Of its file."""
        return sha256_of_bytes(self.text.encode())

    def headline(self) -> "Manifest":
        """The first draw of each sequence alone."""
        return replace(self, draws=tuple(draw for draw in self.draws if draw.draw == 0))

    @property
    def left_out(self) -> dict[str, str]:
        """Sequence -> reason, of all that is not measured."""
        return {**self.skipped, **dict.fromkeys(self.missing, "missing")}


def make_manifest(benchmark: Benchmark, sequences: Mapping[str, Sized], draws: int = DRAWS) -> Manifest:
    """Draw frames of every sequence; one draw alone where nothing is random.

    Each draw depends on the names of dataset and sequence, on the number of frames and on its own number alone: of
    `sequences` only the lengths are asked for, and the labelled pairs where there are any. Sequences with too few
    frames, and those that cannot be read, are in `skipped`.
    """
    made, skipped = [], {}
    for name in sorted(sequences):
        try:
            made += _draws_of(benchmark, name, sequences[name], draws)
        except Flow3rError as error:
            skipped[name] = str(error)
    return Manifest(benchmark.name, tuple(made), skipped)


def _draws_of(benchmark: Benchmark, name: str, sequence: Sized, draws: int) -> list[Draw]:
    n, sampling, made = len(sequence), benchmark.sampling, []
    if n < sampling.least:
        raise InputError(f"{n} frames; at least {sampling.least} are needed")
    for number in range(draws if sampling.drawn else 1):
        lot = Lot(benchmark.dataset, name, number)
        stride, frames = sampling.frames_of(n, lot, getattr(sequence, "pairs", ()))
        if not frames:
            raise InputError("no pair of its frames is labelled")
        made.append(Draw(benchmark.dataset, name, number, stride, frames, n))
    return made


def known_manifest(benchmark: Benchmark) -> Manifest | None:
    """The manifest of the sequences whose lengths the benchmark's row states; None where it states none."""
    lengths = {name: range(n) for name, n in benchmark.lengths.items()}
    return make_manifest(benchmark, lengths) if lengths else None


def check_manifest(manifest: Manifest, sequences: Mapping[str, Sized]) -> tuple[str, ...]:
    """The manifest's sequences that are not among `sequences`.

    Raises InputError naming every sequence whose number of frames is not that of the manifest: its frames would be
    others than the manifest means.
    """
    lengths = {draw.sequence: draw.n for draw in manifest.draws}
    wrong = [
        f"{name} has {len(sequences[name])} usable frames, the manifest says {n}"
        for name, n in lengths.items()
        if name in sequences and len(sequences[name]) != n
    ]
    if wrong:
        raise InputError(
            f"{manifest.benchmark}: the data are not those of the manifest: {'; '.join(wrong)}: complete the dataset, "
            "or make a manifest of what is there (flow3r eval manifest)"
        )
    return tuple(name for name in lengths if name not in sequences)


def write_manifest(path: str | Path, manifest: Manifest) -> None:
    """Write the JSON lines, atomically, and beside them what is left out."""
    beside = left_out_path(path)
    if manifest.left_out:
        write_json(beside, {"skipped": dict(manifest.skipped), "missing": list(manifest.missing)})
    else:
        beside.unlink(missing_ok=True)
    write_text(path, manifest.text)


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in a file called <benchmark>.jsonl. Raises InputError, naming the line, for anything else."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a manifest that can be read ({error})") from error
    return replace(_parse(text, Path(path).stem, str(path)), **_left_out(left_out_path(path)))


def left_out_path(manifest: str | Path) -> Path:
    """Where it is said what the manifest in a file leaves out."""
    return Path(manifest).with_suffix(".left_out.json")


def _left_out(path: Path) -> dict[str, Any]:
    """`skipped` and `missing` of a manifest. Raises InputError for a file that does not say so."""
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {"skipped": {str(k): str(v) for k, v in said["skipped"].items()}, "missing": tuple(said["missing"])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: does not say what a manifest leaves out ({error}): make the manifest again"
        ) from error


def committed_manifest(benchmark: str) -> Manifest | None:
    """The manifest of a benchmark that is part of the package; None where there is none."""
    file = resources.files("flow3r.eval.benchmarks") / "drawn" / f"{benchmark}.jsonl"
    return _parse(file.read_text(encoding="utf-8"), benchmark, str(file)) if file.is_file() else None


def _parse(text: str, benchmark: str, path: str) -> Manifest:
    draws = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            draws.append(_draw_of(json.loads(line)))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no draw of a manifest: {error}; make it again") from error
    keys = [(draw.sequence, draw.draw) for draw in draws]
    if not draws or any(b <= a for a, b in pairwise(keys)):
        raise InputError(f"{path}: expected draws sorted by sequence and number, each once; got {len(draws)} lines")
    return Manifest(benchmark, tuple(draws))


def _draw_of(record: Any) -> Draw:
    """Raises ValueError for anything but a draw."""
    kinds = {"dataset": str, "sequence": str, "draw": int, "stride": int, "frames": list, "n": int}
    if not isinstance(record, dict) or set(record) != set(kinds):
        raise ValueError(f"expected the keys {', '.join(kinds)}")
    wrong = [key for key, kind in kinds.items() if type(record[key]) is not kind]
    if wrong or any(type(frame) is not int for frame in record["frames"]):
        raise ValueError(f"{', '.join(wrong) or 'frames'} of another type")
    frames = tuple(record["frames"])
    if not frames or frames[0] < 0 or frames[-1] >= record["n"] or any(b <= a for a, b in pairwise(frames)):
        raise ValueError(f"frames {list(frames)[:8]} do not ascend within 0..{record['n'] - 1}")
    return Draw(**{**record, "frames": frames})
