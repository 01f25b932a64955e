"""What a result came of: its settings, the weights that it started from, and the program; others are refused."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import flow3r
from flow3r.config import TrainConfig
from flow3r.errors import TrainingError
from flow3r.files import sha256_of_file
from flow3r.train.checkpoint import differing_settings

START = "start_sha256"  # in a result: of the weights that it started from; absent in results from before there was one
_WITHOUT_EFFECT = {"data.workers", "log_every", "image_every", "checkpoint_every", "keep_checkpoints", "init_from"}
_SECONDS = 10  # ours: that git may take


def read_json(path: Path) -> dict[str, Any]:
    """Raises TrainingError for a file that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: missing or damaged ({error}); delete it, and the run is done again") from error


def refuse_another(folder: Path, config: TrainConfig) -> None:
    """Raises TrainingError where a folder holds a run of other settings."""
    written = read_json(folder / "config.json")
    differing = [name for name in differing_settings(config, written) if name not in _WITHOUT_EFFECT]
    if differing:
        raise TrainingError(
            f"{folder}: finished with other {', '.join(differing)}; choose another --out, or delete this run"
        )


def refuse_another_start(folder: Path, result: dict[str, Any], weights: Path) -> None:
    """Raises TrainingError where a result started from other weights than there are now; if either is not told, not."""
    now, then = start_of(weights), result.get(START)
    if now and then and now != then:
        raise TrainingError(
            f"{folder}: started from other weights than {weights} are now; delete this run to do it again, or choose "
            "another --out"
        )


def start_of(weights: Path) -> str | None:
    """The SHA-256 of weights that a run starts from; None where what made them diverged."""
    return sha256_of_file(weights) if weights.is_file() else None


@cache
def program() -> dict[str, str | None]:
    """The version of the package, and the commit that is checked out if it lies in a git checkout: with `-dirty` if
    files of it are changed, None if it cannot be told."""
    home = Path(__file__).parent
    tracked = _git(home, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    commit = _git(home, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None
    return {"version": flow3r.__version__, "commit": commit}


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None if it fails, or is not there."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None
