"""The command line as a user meets it: what it says, where it exits, what it leaves behind."""

import subprocess
import sys

import pytest

import flow3r
from flow3r import cli


def run(*arguments: str) -> None:
    cli.main(list(arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["label", "missing.mp4", "-o", "labels"], "1 of 1 sources could not be labelled"),
        (["label", "-o", "labels"], "no video given"),
        (["label", "x.mp4", "-o", "labels", "--workers", "4"], "--workers 4 with --shards none: does nothing there"),
        (["label", "x.mp4", "-o", "labels", "--timeout", "9"], "label into shards with --shards local or ranks or ray"),
        (["label", "x.mp4", "-o", "labels", "--per-shard", "9"], "--per-shard 9 with --shards none"),
        (["label", "x.mp4", "-o", "labels", "--shards", "local", "--gpus", "1"], "label into shards with --shards ray"),
        (["label", "x.mp4", "-o", "labels", "--teacher", "oracle"], "no teacher is called 'oracle'"),
        (["train", "gigantic", "-o", "run"], "no preset is called 'gigantic'; nearest are "),
        (["train", "nano", "-o", "run", "--labels", "nowhere"], "nowhere"),
        (["train", "nano", "-o", "run", "--device", "gpu"], "device gpu: cannot be used here"),
        (["train", "flow3r", "-o", "run"], "preset 'flow3r' is trained on"),
        (["adapt", "missing.mp4", "-o", "run"], "missing.mp4"),
        (["reconstruct", "missing.mp4", "-o", "scene"], "missing.mp4"),
        (["eval", "folder", "nowhere"], "nowhere"),
        (["eval", "run", "nowhere", "-o", "out"], "none of the benchmarks of 'paper' has data there"),
        (["eval", "run", "nowhere", "-o", "out", "--benchmarks", "sintle"], "nearest are "),
        (["eval", "run", "nowhere", "-o", "out", "--stages", "dream"], "expected some of predict, score, report"),
        (["eval", "manifest", "nowhere", "-o", "out", "--benchmarks", "sintel"], "no such folder; sintel needs"),
        (["eval", "check", "missing.npz"], "1 of 1 files do not keep the contract"),
        (["render", "missing.ply", "-o", "a.mp4"], "missing.ply"),
        (["render", "missing.ply", "-o", "a.txt"], "a.txt"),
        (["render", __file__, "-o", "a.mp4"], "expected a reconstruction.npz or its folder, or a .ply of points"),
        (["eval", "worlds", "--model", "no_such_model"], "no_such_model: no such file"),
        (["eval", "worlds", "--model", "yyfz233/Pi3"], "accept them once with --accept-license"),
        (["convert", "missing.safetensors", "out.safetensors"], "missing.safetensors: no such file"),
        (["convert", "nano", "out.bin", "--to", "pi3"], "would be lost (first: flow_head."),
        (["export", "nano", "-o", "nano.obj"], "nano.obj: a graph is written as .onnx or .pt2"),
        (["export", "nano", "-o", "nano.pt2", "--size", "100", "112"], "both sides must be multiples of 14"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run(*arguments)
    errors = capsys.readouterr().err
    assert exit_.value.code == 1
    assert errors.startswith("flow3r: ") and errors.count("\n") == 1 and said in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "labels.json"] or (
        arguments[0] in ("label", "adapt")
    )


def test_the_version_is_that_of_the_package(capsys):
    run("--version")
    assert capsys.readouterr().out == f"flow3r {flow3r.__version__}\n"


def test_unknown_command_is_refused_by_the_parser():
    with pytest.raises(SystemExit) as exit_:
        run("dream")
    assert exit_.value.code == 2


def test_dry_run_prints_the_configuration_with_its_changes(capsys):
    run("train", "nano", "-o", "unused", "--steps", "7", "--lr", "0.5", "--seed", "3", "--dry-run")
    printed = capsys.readouterr().out.replace("\n", "")
    assert "steps=7" in printed and "learning_rate=0.5" in printed and "seed=3" in printed


def test_licences_are_accepted_for_one_command(monkeypatch):
    from flow3r.model import convert, licences
    from flow3r.model.layouts import LAYOUTS

    seen = []

    def read(*arguments):
        seen.append(licences._ACCEPTING.get())
        return LAYOUTS["pi3"]

    monkeypatch.setattr(convert, "convert", read)
    run("convert", "yyfz233/Pi3", "ours.safetensors", "--accept-license")
    run("convert", "yyfz233/Pi3", "ours.safetensors")
    assert seen == [True, False]


def test_weights_are_converted(tmp_path, capsys):
    run("convert", "nano", str(tmp_path / "copy.safetensors"))
    assert "copy.safetensors (ours)" in capsys.readouterr().out.replace("\n", "")


def test_exports_say_how_far_they_are_from_the_network(monkeypatch, capsys):
    from flow3r.model import graph

    sizes = []

    def export_graph(model, path, *asked):
        sizes.append(asked)
        return {"local_points": 3e-7}

    monkeypatch.setattr(graph, "export_graph", export_graph)
    run("export", "nano", "-o", "nano.onnx", "--views", "3", "--size", "112", "140")
    assert sizes == [(3, 112, 140, 0)]
    assert "local_points" in (said := capsys.readouterr().out) and "3.0e-07" in said


def test_help_names_every_command():
    result = subprocess.run(
        [sys.executable, "-m", "flow3r.cli", "--help"], capture_output=True, text=True, check=True, timeout=300
    )
    assert all(name in result.stdout for name in cli.COMMANDS)
