"""Hub ids reach for the network by huggingface_hub alone, which a stand-in replaces here."""

import json
import sys
import types

import pytest
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model

from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.sources import FILE_NAMES


class EntryNotFoundError(Exception):
    """As huggingface_hub.errors has it."""


class LocalEntryNotFoundError(FileNotFoundError, EntryNotFoundError):
    """What is raised for a file that is not cached, in offline mode and without a network."""


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds what the test puts into the dict: (id, file name) -> local path, or an error to raise."""
    files, asked = {}, []

    def hf_hub_download(name, file, local_files_only):
        asked.append((name, file))
        found = files.get((name, file), files.get("else", EntryNotFoundError(file)))
        assert local_files_only == (files.get("else") is not None and file != FILE_NAMES[0])  # waits for it once alone
        if isinstance(found, Exception):
            raise found
        return str(found)

    package, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    package.hf_hub_download = hf_hub_download
    errors.EntryNotFoundError, errors.LocalEntryNotFoundError = EntryNotFoundError, LocalEntryNotFoundError
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    package.errors, files["asked"] = errors, asked
    return files


def test_a_hub_id_loads_our_file_before_the_public_ones(hub, tmp_path):
    save_model(tiny_model(), tmp_path / "ours.safetensors")
    hub["someone/flow3r", "model.safetensors"] = tmp_path / "ours.safetensors"
    hub["someone/flow3r", "flow3r.bin"] = tmp_path / "absent.bin"
    assert load_model("someone/flow3r").config == tiny_model().config
    assert hub["asked"] == [("someone/flow3r", "model.safetensors"), ("someone/flow3r", "config.json")]


@pytest.mark.parametrize("file", FILE_NAMES[1:])
def test_the_public_file_where_ours_is_absent(hub, tmp_path, file):
    (tmp_path / file).write_bytes(b"no weights")
    hub["someone/flow3r", file] = tmp_path / file
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        load_model("someone/flow3r")


def test_sizes_come_from_the_config_where_the_weights_do_not_hold_them(hub, tmp_path):
    save_model(tiny_model(), tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    for file in ("model.safetensors", "config.json"):
        hub["someone/flow3r", file] = tmp_path / file
    assert load_model("someone/flow3r").config == tiny_model().config
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Other"]}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its sizes are unreadable"):
        load_model("someone/flow3r")


def test_a_repository_without_weights_and_a_network_that_is_down(hub):
    with pytest.raises(CheckpointError, match=r"holds none of model\.safetensors"):
        load_model("someone/empty")
    hub["someone/far", "model.safetensors"] = ConnectionError("down")
    with pytest.raises(CheckpointError, match=r"someone/far.*not fetched.*ConnectionError"):
        load_model("someone/far")


def test_offline_it_takes_what_is_cached_and_says_what_is_not(hub, tmp_path):
    hub["else"] = LocalEntryNotFoundError("offline")
    with pytest.raises(CheckpointError, match="not in the hub's cache, and the hub is out of reach"):
        load_model("someone/flow3r")
    save_model(tiny_model(), tmp_path / "pytorch_model.safetensors")
    hub["someone/flow3r", "pytorch_model.bin"] = tmp_path / "pytorch_model.safetensors"
    assert load_model("someone/flow3r").config == tiny_model().config


def test_the_hub_library_itself_stays_offline_when_told(tmp_path, monkeypatch):
    """The environment is read when the library is imported, hence a process of its own in real use."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="out of reach"):
        load_model("someone/nothing-cached")


def test_the_folder_of_an_earlier_stage_never_reaches_the_network(hub):
    with pytest.raises(CheckpointError, match="flow3r train nano-matching -o runs/nano-matching"):
        load_model("runs/nano-matching")
    assert hub["asked"] == []


@pytest.mark.parametrize("name", ["made/model.safetensors", "/tmp/absent", "../models/nano", "a/b/c", "~/x"])
def test_what_looks_like_a_path_never_reaches_the_network(hub, name):
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(name)
    assert hub["asked"] == []


def test_a_folder_of_that_name_comes_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    with pytest.raises(CheckpointError, match="no such file"):
        load_model("made/nano")
    save_model(tiny_model(), "made/nano/model.safetensors")
    assert load_model("made/nano").config == tiny_model().config
    assert hub["asked"] == []


def test_without_the_hub_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        load_model("someone/flow3r")
