"""Shapes and types of every flow3r function are checked under pytest; `shared` finds the optional sample data."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# An int is welcome where a float is asked for, as everywhere in Python.
install_import_hook("flow3r", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The maintainers' sample data and reference weights, which users do not have."""
    folder = Path(os.environ.get("FLOW3R_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"sample data not found at {folder}; set FLOW3R_SHARED")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
