"""`flow3r data` as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_media import texture, write_video
from posed_on_disk import write_posed

from flow3r import cli
from flow3r.data.catalogue import DATASETS


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_posed(tmp_path / "scene", count=12)


def run(*arguments: object) -> None:
    cli.main(["data", *map(str, arguments)])


def test_list_names_every_dataset_with_its_licence(capsys):
    run("list")
    printed = capsys.readouterr().out
    assert all(dataset.name in printed and dataset.licence in printed for dataset in DATASETS.values())
    assert "none, " not in printed and printed.count("labels: none\n") >= 4
    assert all(printed.count(said) == 1 for said in ("that of the images", "that of the dataset that was packed"))
    run("list", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["url"] for row in rows} == {name: dataset.url for name, dataset in DATASETS.items()}


def test_a_folder_is_inspected_validated_packed_and_validated_again(scene: Path, tmp_path: Path, capsys):
    pytest.importorskip("webdataset", reason="needs flow3r[scale]")
    run("inspect", scene, "-o", tmp_path / "sheet.html")
    assert (tmp_path / "sheet.html").read_text().startswith("<!doctype html>")
    run("validate", scene)
    run("pack", scene, tmp_path / "packed")
    run("validate", tmp_path / "packed")
    printed = capsys.readouterr().out
    assert "posed_folders" in printed and "12 frames in 1 shards" in printed and printed.count("conventions") == 2


def test_wrong_labels_exit_with_code_one(scene: Path, capsys):
    content = json.loads((scene / "cameras.json").read_text())
    content["depth_scale"] = 1.0
    (scene / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit) as exit_:
        run("validate", scene)
    said = capsys.readouterr()
    assert exit_.value.code == 1 and "checks failed" in said.err and "too large" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "nowhere"), "nowhere: no such folder"),
        (("inspect", ".", "--dataset", "scannet++"), "no dataset is called 'scannet++'; nearest are scannet"),
        (("validate", ".", "--dataset", "kinetics700"), "no labels to validate"),
        (("pack", ".", "out", "--dataset", "scannet"), "scannet"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    errors = capsys.readouterr().err
    assert (
        exit_.value.code == 1
        and errors.startswith("flow3r: ")
        and errors.count("\n") == 1
        and said.lower() in errors.lower()
    )


def test_prepare_writes_a_job_and_then_asks_for_its_results(tmp_path: Path, capsys):
    root = tmp_path / "kinetics" / "val"
    root.mkdir(parents=True)
    picture = texture(96, 400)
    images = [np.ascontiguousarray(picture[:, 4 * k : 4 * k + 128]) for k in range(30)]
    write_video(root / "abcdefghijk_000001_000011.mp4", images)
    arguments = ("prepare", "kinetics", tmp_path / "kinetics", tmp_path / "out", "--least-frames", 20, "--clips", 1)
    run(*arguments)
    assert "bash" in capsys.readouterr().out and (tmp_path / "out" / "megasam.sh").is_file()
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "results: missing; run" in capsys.readouterr().err
