"""The table of datasets: complete, by one name each, and helpful where a name or a folder is wrong."""

import re
from pathlib import Path

import pytest

from flow3r.data.catalogue import DATASETS, find_dataset, recognise
from flow3r.errors import InputError
from flow3r.presets import PRESETS


def test_every_dataset_that_a_preset_names_has_a_reader_that_fits_its_use():
    for preset in PRESETS.values():
        for source in preset.data.labelled:
            assert DATASETS[source.dataset].labels == "posed" or source.labels == "megasam"
        assert all(source.dataset in DATASETS for source in preset.data.unlabelled)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_says_what_it_is(name: str):
    dataset = DATASETS[name]
    assert dataset.name == name
    assert dataset.title and dataset.layout and dataset.licence
    assert bool(dataset.citation) == (name not in ("videos", "posed_folders", "packed"))  # which are of any origin
    assert not (dataset.dense and dataset.labels == "none") and not (dataset.rigid and dataset.labels == "depth")


@pytest.mark.parametrize("name", DATASETS)
def test_a_wrong_root_is_told_what_was_looked_for_and_what_was_found(name: str, tmp_path: Path):
    (tmp_path / "something_else").mkdir()
    with pytest.raises(InputError, match="something_else"):
        len(DATASETS[name].sequences(tmp_path)[0])
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "nowhere"))):
        len(DATASETS[name].sequences(tmp_path / "nowhere")[0])


def test_a_folder_of_something_else_is_recognised_as_no_dataset(tmp_path: Path):
    (tmp_path / "something_else").mkdir()
    assert recognise(tmp_path) == []


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="nearest are scannet, scannetpp"):
        find_dataset("scannet++")
