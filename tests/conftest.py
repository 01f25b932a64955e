"""Shapes and types of every flow3r function are checked under pytest; `shared` finds the optional sample data."""

import os
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered between runs, such as licences shown, is not the user's; and no test reaches for the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(autouse=True)
def _no_licence_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an earlier test, in this process or on disk."""
    monkeypatch.setattr("flow3r.model.licences._DONE", {})
    Path(os.environ["XDG_CACHE_HOME"], "flow3r", "licences.json").unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
