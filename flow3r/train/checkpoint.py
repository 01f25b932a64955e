"""Training checkpoints: everything that a killed run needs to go on to the same numbers, on any number of processes.

A checkpoint is a folder that PyTorch's distributed checkpoints fill, each rank with its part, and that any number of
ranks reads, each the part that it holds.
"""

import dataclasses
import json
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flow3r.config import TrainConfig
from flow3r.errors import CheckpointError, Flow3rError, TrainingError
from flow3r.files import atomic_path, write_json
from flow3r.train.distributed import Ranks
from flow3r.train.optim import AveragedWeights

FORMAT = "flow3r-training-2"
RUN_FILE = "run.json"  # beside the tensors: what is no tensor
MAY_DIFFER = {  # of a run that goes on: how long, how fast, on how many processes, and what it tells
    *("steps", "accumulate", "parallel", "devices", "recompute", "compile", "patience", "keep_checkpoints"),
    *("log_every", "image_every", "probe_every", "validate_every", "checkpoint_every"),
    *("optim.learning_rate", "data.workers"),
}


@dataclasses.dataclass(frozen=True)
class Learning:
    """What changes while a model learns: its weights, the optimizer's moments, averaged weights if there are any."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    averaged: AveragedWeights | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name; what is sharded, as its DTensor."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self._learning():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{key}.{name}"] = value
        if self.averaged is not None:
            found |= {f"averaged.{name}": tensor for name, tensor in self.averaged.tensors.items()}
        return found

    def empty(self, names: set[str]) -> dict[str, Tensor]:
        """Like `tensors`, with room for those of the optimizer that are among `names`, which it does not have yet."""
        for name, parameter in self._learning():
            for wanted in names:
                kind, key, *rest = wanted.split(".", 2)
                if kind == "optimizer" and rest == [name]:
                    room = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
                    self.optimizer.state[parameter][key] = room
        return self.tensors()

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]


def config_as_json(config: TrainConfig) -> str:
    """The configuration as canonical JSON."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


class Checkpoints:
    """The checkpoints of a run, `step_00000500` and so on in `folder`, each whole or absent; the last few are kept.

    Batches are functions of (configuration, step), so the number of steps is the sampler's whole state. All ranks make
    the same calls.
    """

    def __init__(self, folder: Path, config: TrainConfig, ranks: Ranks):
        self.folder, self.config, self.ranks = folder, config, ranks

    def last(self) -> Path | None:
        """The newest checkpoint."""
        return max(self._all(), default=None)

    def save(self, learning: Learning, step: int, progress: dict[str, Any]) -> None:
        """Write all after `step` finished steps, with `progress`: whatever else of JSON the run is to remember.

        Raises TrainingError where it cannot be written; the checkpoints before it are still there.
        """
        import torch.distributed.checkpoint as dcp

        path = self.folder / f"step_{step:08d}"
        with atomic_path(path) if self.ranks.first else nullcontext() as temporary:
            temporary = Path(self.ranks.gather(str(temporary))[0])
            try:
                # Each rank a file of its own, flushed to disk.
                with _alone_without_words(self.ranks):
                    dcp.save(learning.tensors(), storage_writer=dcp.FileSystemWriter(temporary))
                if self.ranks.first:
                    run = {"format": FORMAT, "step": step, "progress": progress}
                    write_json(temporary / RUN_FILE, {**run, "config": json.loads(config_as_json(self.config))})
            except (dcp.CheckpointException, OSError) as error:
                last, free = self.last(), shutil.disk_usage(self.folder).free / 1e9
                raise TrainingError(
                    f"{path}: could not be saved ({_reason(error)}; {free:.1f} GB of its disk are free); make room. "
                    f"{'No checkpoint was written before' if last is None else f'{last} is whole: start again from it'}"
                ) from error
        if self.ranks.first:
            for old in sorted(self._all())[: -max(self.config.keep_checkpoints, 1)]:
                shutil.rmtree(old)

    def load(self, learning: Learning) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint into `learning`; finished steps and progress, which are 0 and {} without one.

        Raises CheckpointError for one that is damaged or something else, TrainingError for one of another
        configuration; MAY_DIFFER alone may, so that a finished run can be made longer, and one of many processes go on
        with fewer.
        """
        import torch.distributed.checkpoint as dcp

        if self.ranks.first:
            for unfinished in self.folder.glob(".tmp-*"):  # left by a run that was killed while it saved
                shutil.rmtree(unfinished)
        path = self.last()
        steps = self.ranks.gather(0 if path is None else int(path.name.removeprefix("step_")))
        if len(set(steps)) > 1:
            raise TrainingError(
                f"the ranks found checkpoints after different numbers of steps ({', '.join(map(str, steps))}); "
                "expected an output folder that all machines share"
            )
        if path is None:
            return 0, {}
        with self.ranks.together(f"reading {path}"), _readable(path):
            run = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
            if run["format"] != FORMAT:
                raise CheckpointError(f"{path}: format {run['format']!r}, expected {FORMAT!r}; train in another folder")
            self._refuse_another(path, run["config"])
            names = _Index.names(path)
        with _readable(path), _alone_without_words(self.ranks):
            dcp.load(learning.empty(names), checkpoint_id=path)
        return run["step"], run["progress"]

    def _refuse_another(self, path: Path, written: dict[str, Any]) -> None:
        differing = [name for name in differing_settings(self.config, written) if name not in MAY_DIFFER]
        if "name" in differing:
            raise TrainingError(
                f"{path}: of preset {written.get('name')!r}, not {self.config.name!r}; choose another folder, or start "
                "from its weights (init_from)"
            )
        if differing:
            raise TrainingError(
                f"{path}: made with other {', '.join(differing)}; resume with the same, or choose another folder"
            )

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("step_*") if re.fullmatch(r"step_\d+", path.name)]


def differing_settings(config: TrainConfig, written: dict[str, Any]) -> list[str]:
    """Names such as `optim.learning_rate` of the settings in which `written`, a configuration as JSON, is another.

    A field that was not there yet when it was written had its default; one that is no more there differs.
    """
    current, found = _flat(json.loads(config_as_json(config))), _flat(written)
    absent = {name for name, value in found.items() if value is None}  # where a dataclass may stand in its place
    then = {
        name: value
        for name, value in _flat(_defaults(config)).items()
        if name in current and not any(name.startswith(f"{other}.") for other in absent)
    }
    found = {**then, **found}
    return sorted(name for name in current | found if found.get(name) != current.get(name))


def _defaults(config: Any) -> dict[str, Any]:
    """The defaults of the fields of a dataclass, and of the dataclasses within; of those alone that have some."""
    defaults = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            defaults[field.name] = _defaults(value)
        elif field.default is not dataclasses.MISSING:
            defaults[field.name] = json.loads(json.dumps(field.default, default=dataclasses.asdict))
    return defaults


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A context in which whatever goes wrong but what users are told already is a damaged checkpoint."""
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except (Flow3rError, MemoryError, torch.OutOfMemoryError, PermissionError):
        raise  # nothing that is wrong with the checkpoint
    except (CheckpointException, Exception) as error:
        raise CheckpointError(
            f"{path}: not a readable training checkpoint ({_reason(error)}); delete it to go on from the one before, "
            "or to start anew"
        ) from error


@contextmanager
def _alone_without_words(ranks: Ranks) -> Iterator[None]:
    """A context in which PyTorch does not warn one process that it is alone, as it was told."""
    with warnings.catch_warnings():
        if ranks.alone:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with names such as optim.learning_rate."""
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _reason(error: BaseException) -> str:
    """What went wrong underneath, in a line."""
    failures = getattr(error, "failures", None)  # of dcp.CheckpointException: by rank, the error and its trace
    if failures:
        error = next(iter(failures.values()))[0]
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")


# What the pickled index of a checkpoint may name: the descriptions of tensors, and nothing that runs.
_DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float16", "float32", "float64", "bfloat16", "int64"},
    "pathlib": {"PosixPath", "WindowsPath", "Path"},
}


class _Index(pickle.Unpickler):
    """Reads an index that names descriptions of tensors alone, so that PyTorch can read it without danger."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _DESCRIPTIONS.get(module, ()):
            raise pickle.UnpicklingError(f"its index names {module}.{name}, which describes no tensor")
        return super().find_class(module, name)

    @staticmethod
    def names(folder: Path) -> set[str]:
        """The tensors of a checkpoint."""
        with open(folder / ".metadata", "rb") as file:
            return set(_Index(file).load().state_dict_metadata)
