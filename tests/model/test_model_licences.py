"""Licences of public checkpoints are shown once, before anything is fetched; those against commercial use, accepted."""

import json
import logging

import pytest
from public_layout import public_key
from safetensors.torch import save_file
from tiny_model import tiny_model

from flow3r.errors import CheckpointError
from flow3r.model import licences, sources
from flow3r.model.checkpoints import load_model
from flow3r.model.licences import CHECKPOINTS, USUAL_ORIGINS, accepting_licences, check_licence, record_path
from flow3r.model.sources import read_source


@pytest.fixture(autouse=True)
def first_use(tmp_path, monkeypatch, caplog):
    """A user who has used nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(licences, "_DONE", {})
    caplog.set_level(logging.WARNING, "flow3r")


@pytest.fixture
def next_process(monkeypatch):
    """What a process forgets when it ends."""
    return lambda: monkeypatch.setattr(licences, "_DONE", {})


def test_a_free_one_is_shown_once(caplog, next_process):
    for _ in range(2):
        check_licence("timm/vit_large_patch14_reg4_dinov2.lvd142m")
        next_process()
    (record,) = caplog.records
    assert "Apache-2.0 (commercial use allowed)" in record.getMessage()


def test_one_against_commercial_use_must_be_accepted_once(caplog, next_process):
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"yyfz233/Pi3: CC BY-NC 4\.0 \(NO commercial use\).*--accept-license"
        ):
            check_licence("yyfz233/Pi3")
    assert caplog.records == []
    check_licence("yyfz233/pi3", accept=True)  # hub ids are blind to case
    next_process()
    check_licence("yyfz233/Pi3")
    assert len(caplog.records) == 1
    assert json.loads(record_path().read_text()) == {"yyfz233/Pi3": "accepted"}


def test_having_been_shown_is_not_having_been_accepted():
    record_path().parent.mkdir(parents=True)
    record_path().write_text(json.dumps({"yyfz233/Pi3": "shown"}))
    with pytest.raises(CheckpointError):
        check_licence("yyfz233/Pi3")


def test_accepting_for_a_while():
    with accepting_licences(False), pytest.raises(CheckpointError):
        check_licence("facebook/VGGT-1B")
    with accepting_licences(), accepting_licences(False):
        check_licence("facebook/VGGT-1B")
    with pytest.raises(CheckpointError):
        check_licence("Clara211111/flow3r")


def test_an_unknown_id_is_nobodys_business(caplog):
    check_licence("someone/flow3r")
    assert caplog.records == [] and not record_path().exists()


def test_nothing_is_fetched_before_acceptance(monkeypatch):
    monkeypatch.setattr(sources, "_from_hub", lambda name: pytest.fail("fetched"))
    with pytest.raises(CheckpointError, match="--accept-license"):
        load_model("yyfz233/Pi3")
    monkeypatch.setattr(sources, "_from_hub", lambda name: (_ for _ in ()).throw(CheckpointError("asked the hub")))
    with pytest.raises(CheckpointError, match="asked the hub"):
        load_model("yyfz233/Pi3", accept_license=True)


@pytest.mark.parametrize("spoilt", ["a file in the way", "no JSON", "another JSON"])
def test_a_cache_that_cannot_be_used_is_harmless(spoilt, caplog):
    path = record_path()
    if spoilt == "a file in the way":
        path.parent.parent.mkdir(parents=True)
        path.parent.write_text("")
    else:
        path.parent.mkdir(parents=True)
        path.write_text("{" if spoilt == "no JSON" else "[1]")
    for _ in range(2):
        check_licence("timm/vit_large_patch14_reg4_dinov2.lvd142m")
    assert len(caplog.records) == 1


@pytest.fixture
def pi3_file(tmp_path):
    model = tiny_model()
    path = tmp_path / "pi3.safetensors"
    save_file({public_key(k): v for k, v in model.state_dict().items() if not k.startswith("flow_head")}, path)
    return path


def test_a_file_of_a_public_layout_has_a_usual_origin(pi3_file, caplog, next_process):
    for _ in range(2):
        read_source(pi3_file)
        next_process()
    (record,) = caplog.records
    assert "pi3 are usually yyfz233/Pi3: CC BY-NC 4.0" in record.getMessage()


def test_after_its_usual_origin_was_accepted_it_says_nothing(pi3_file, caplog):
    check_licence("yyfz233/Pi3", accept=True)
    caplog.clear()
    read_source(pi3_file)
    assert caplog.records == []


def test_our_own_weights_need_no_notice(tmp_path, caplog):
    load_model("nano")
    assert caplog.records == []


def test_every_usual_origin_is_known():
    assert {name.lower() for names in USUAL_ORIGINS.values() for name in names} <= set(CHECKPOINTS)
    assert all(licence.url.startswith("https://") for licence in CHECKPOINTS.values())
