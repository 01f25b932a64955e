"""Training checkpoints: everything that a killed run needs to go on to the same numbers."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flow3r.config import TrainConfig
from flow3r.errors import CheckpointError, TrainingError
from flow3r.files import atomic_path

FORMAT = "flow3r-training-1"


def config_as_json(config: TrainConfig) -> str:
    """The configuration as canonical JSON."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, config: TrainConfig
) -> None:
    """Write model, optimizer, random state and configuration after `step` finished steps, atomically.

    Batches are functions of (configuration, step), so `step` is the sampler's whole state.
    """
    state = {
        "format": FORMAT,
        "config": config_as_json(config),
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainConfig, device: torch.device
) -> int:
    """Restore what `save_checkpoint` wrote and return the number of finished steps.

    Raises CheckpointError for a file that is damaged or something else, TrainingError for one of another configuration;
    `steps` and `accumulate` alone may differ, so that a finished run can be made longer, and one of many processes go
    on with fewer.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        written = json.loads(state["config"]) if state["format"] == FORMAT else None
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a readable training checkpoint ({type(error).__name__}); delete it to start anew"
        ) from error
    if written is None:
        raise CheckpointError(f"{path}: format {state['format']!r}, expected {FORMAT!r}; train in another folder")
    current = json.loads(config_as_json(config))
    differing = sorted(
        key for key in current if key not in ("steps", "accumulate") and written.get(key) != current[key]
    )
    if differing:
        raise TrainingError(
            f"{path}: made with other {', '.join(differing)}; resume with the same, or choose another folder"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"].cpu())
    return state["step"]
