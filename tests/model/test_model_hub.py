"""Hub ids reach for the network by huggingface_hub alone, which a stand-in replaces here."""

import sys
import types

import pytest
from tiny_model import tiny_model

from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model, save_model


class EntryNotFoundError(Exception):
    """As huggingface_hub.errors has it."""


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds what the test puts into the dict: (id, file name) -> local path, or an error to raise."""
    files, asked = {}, []

    def hf_hub_download(name, file):
        asked.append((name, file))
        found = files.get((name, file), EntryNotFoundError(file))
        if isinstance(found, Exception):
            raise found
        return str(found)

    package, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    package.hf_hub_download, errors.EntryNotFoundError = hf_hub_download, EntryNotFoundError
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    package.errors, files["asked"] = errors, asked
    return files


def test_a_hub_id_loads_our_file_before_the_public_one(hub, tmp_path):
    save_model(tiny_model(), tmp_path / "ours.safetensors")
    hub["someone/flow3r", "model.safetensors"] = tmp_path / "ours.safetensors"
    hub["someone/flow3r", "flow3r.bin"] = tmp_path / "absent.bin"
    assert load_model("someone/flow3r").config == tiny_model().config
    assert hub["asked"] == [("someone/flow3r", "model.safetensors")]


def test_the_public_file_where_ours_is_absent(hub, tmp_path):
    (tmp_path / "flow3r.bin").write_bytes(b"no weights")
    hub["someone/flow3r", "flow3r.bin"] = tmp_path / "flow3r.bin"
    with pytest.raises(CheckpointError, match=r"flow3r\.bin"):
        load_model("someone/flow3r")


def test_a_repository_without_weights_and_a_network_that_is_down(hub):
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors"):
        load_model("someone/empty")
    hub["someone/far", "model.safetensors"] = ConnectionError("down")
    with pytest.raises(CheckpointError, match=r"someone/far.*not fetched.*ConnectionError"):
        load_model("someone/far")


@pytest.mark.parametrize("name", ["runs/model.safetensors", "/tmp/absent", "../models/nano", "a/b/c", "~/x"])
def test_what_looks_like_a_path_never_reaches_the_network(hub, name):
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(name)
    assert hub["asked"] == []


def test_a_folder_of_that_name_comes_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match="no such file"):
        load_model("runs/nano")
    save_model(tiny_model(), "runs/nano/model.safetensors")
    assert load_model("runs/nano").config == tiny_model().config
    assert hub["asked"] == []


def test_without_the_hub_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        load_model("someone/flow3r")
