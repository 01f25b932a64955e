"""The inventory counts and names what is there; the contact sheet needs no other file, and shows where points fall."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from posed_on_disk import write_posed

from flow3r.data.catalogue import DATASETS
from flow3r.data.datasets.posed_folders import POSED_FOLDERS
from flow3r.data.inspect_dataset import contact_sheet, dataset_of, neighbours, overlay, take_inventory
from flow3r.errors import InputError


def test_the_dataset_of_a_folder_is_found_and_counted(tmp_path: Path):
    for name in "ab":
        write_posed(tmp_path / name)
    (tmp_path / "b" / "1_depth.png").unlink()
    assert dataset_of(tmp_path) is POSED_FOLDERS
    inventory = take_inventory(POSED_FOLDERS, tmp_path)
    assert (inventory.sequences, inventory.frames) == (2, 3)
    assert "1_depth.png: missing" in inventory.unreadable["b"]
    assert any("unreadable: b" in line for line in inventory.lines())


def test_an_ambiguous_folder_names_the_datasets_that_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_posed(tmp_path / "a")
    monkeypatch.setitem(DATASETS, "twin", replace(POSED_FOLDERS, name="twin"))
    with pytest.raises(InputError, match=r"may be any of posed_folders, twin; say which one with --dataset"):
        dataset_of(tmp_path)


def test_a_folder_of_nothing_says_what_it_holds(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"no dataset has this layout.*notes\.txt"):
        dataset_of(tmp_path)


def test_the_sheet_is_one_file_with_images_depth_and_overlay(tmp_path: Path):
    write_posed(tmp_path / "root" / "<b>bold", count=4)
    write_posed(tmp_path / "root" / "broken").joinpath("0.png").write_bytes(b"")
    out = tmp_path / "sheet.html"
    contact_sheet(take_inventory(POSED_FOLDERS, tmp_path / "root"), tmp_path / "root", out, frames=3)
    page = out.read_text()
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', page)) == 3 + 3 + 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<b>bold" not in page and "&lt;b&gt;bold" in page and "0.png: not an image" in page


def test_the_points_of_one_frame_fall_on_what_the_next_one_sees(tmp_path: Path):
    source, target = POSED_FOLDERS.sequences(write_posed(tmp_path / "a", count=5))[0].frames([0, 4])
    image = torch.from_numpy(target.image).movedim(-1, 0) / 255
    right = (overlay(source, target) - image).abs().amax(0) > 0.1
    wrong = (overlay(replace(source, world_from_camera=target.world_from_camera), target) - image).abs().amax(0) > 0.1
    assert 5 * right.float().mean() < wrong.float().mean() > 0.02


@pytest.mark.parametrize("length", [1, 2, 3, 7, 60, 5000])
def test_shown_frames_ascend_within_the_sequence(length: int):
    numbers = neighbours(length, 4)
    assert numbers == sorted(set(numbers)) and numbers[0] >= 0 and numbers[-1] < length
    assert len(numbers) == min(4, length)
