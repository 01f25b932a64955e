"""The planner: windows that the memory of a device holds, told before anything is run."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracle_walk import SIZE

from flow3r.cli import main
from flow3r.config import ModelConfig
from flow3r.data.frame import Excerpt, frame_sizes
from flow3r.data.images import read_image
from flow3r.data.video import open_source
from flow3r.errors import InputError
from flow3r.model.cost import forward_flops, peak_bytes
from flow3r.model.flow3r import Flow3r
from flow3r.nn.precision import product_rate
from flow3r.presets import NANO_MODEL
from flow3r.reconstruction import memory_budget, plan_windows, reconstruct
from flow3r.reconstruction.memory import _left_in_container, free_bytes
from flow3r.reconstruction.windows import split

GRID = (126, 154)
TINY = dataclasses.replace(
    NANO_MODEL,
    encoder=dataclasses.replace(NANO_MODEL.encoder, width=32, depth=1, heads=2),
    multiview=dataclasses.replace(NANO_MODEL.multiview, width=32, depth=2, heads=2),
    branch=dataclasses.replace(NANO_MODEL.branch, width=32, heads=2, camera_width=32),
    flow=None,
    tokens=(12, 16),
)


@pytest.mark.parametrize("config", [NANO_MODEL, ModelConfig()])
def test_a_window_is_as_large_as_the_budget_holds(config):
    for views in (2, 7, 40, 63):
        budget = peak_bytes(config, views, *GRID, dtype=torch.float32)
        plan = plan_windows(config, GRID, 1000, budget)
        assert plan.views_per_window == views and plan.fits and plan.peak_bytes == budget
        assert plan.windows == len(split(1000, views, plan.overlap))
        assert plan.flops == plan.windows * forward_flops(config, views, *GRID)


def test_no_window_is_larger_than_is_good_and_none_larger_than_the_sequence():
    assert plan_windows(NANO_MODEL, GRID, 1000, 10**15).views_per_window == 64
    whole = plan_windows(NANO_MODEL, GRID, 20, 10**15)
    assert (whole.views_per_window, whole.overlap, whole.windows) == (20, 0, 1)
    assert plan_windows(NANO_MODEL, GRID, 20, 10**15, views=8).views_per_window == 8
    assert plan_windows(NANO_MODEL, GRID, 90, 10**15, views=90).windows == 1  # but one may ask for it


def test_what_cannot_fit_is_planned_as_small_as_can_be_and_said():
    plan = plan_windows(NANO_MODEL, GRID, 50, 1000)
    assert plan.views_per_window == 2 and not plan.fits


def test_a_model_that_does_not_say_its_sizes_gets_the_largest_good_windows():
    plan = plan_windows(None, GRID, 200, 1)
    assert plan.views_per_window == 64 and plan.fits and plan.peak_bytes is None and plan.seconds(1e9) is None


def test_the_budget_is_what_the_user_gives_or_less_than_what_is_free():
    host = torch.device("cpu")
    assert memory_budget(host, 1.5) == 1_500_000_000
    assert 0 < memory_budget(host) < free_bytes(host) * 1.2
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(InputError, match="positive number of gigabytes"):
            memory_budget(host, wrong)


def test_a_container_leaves_its_limit_less_what_it_cannot_drop(tmp_path):
    assert _left_in_container(str(tmp_path)) > 2**50
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 600\ninactive_file 100\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert _left_in_container(str(tmp_path)) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_container(str(tmp_path)) > 2**50


def test_products_are_timed():
    assert 1e8 < product_rate(torch.device("cpu"), torch.float32) < 1e15


def test_a_small_budget_makes_reconstruct_take_windows():
    images = np.random.default_rng(0).integers(0, 255, (12, *SIZE, 3), dtype=np.uint8)
    model, calls = Flow3r(TINY), []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[1]))
    budget = peak_bytes(TINY, 5, *SIZE, dtype=torch.float32) / 1e9
    found = reconstruct(images, model, dtype=torch.float32, memory_gb=budget, tokens=(20, 20))
    assert max(calls) == 5 and len(calls) == len(split(12, 5, 2)) and len(found.names) == 12
    calls.clear()
    reconstruct(images, model, dtype=torch.float32, tokens=(20, 20))
    assert calls == [12]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    import av

    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for _ in range(40):
            image = generator.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_plan_prints_windows_memory_and_time_and_writes_nothing(video, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    main(["plan", str(video), "--max-frames", "0", "--views-per-window", "16", "--memory-gb", "2", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "clip: 40 of 40 frames" in printed and "3 of 16 frames, overlapping by at least 4" in printed
    assert "of 2.00 GB on cpu" in printed and "about" in printed and "NOT TO FIT" not in printed
    assert not list(tmp_path.iterdir())
    main(["plan", str(video), "--model", "flow3r", "--memory-gb", "1", "--max-frames", "10", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "10 of 40 frames" in printed and "of 2 frames" in printed and "EXPECTED NOT TO FIT" in printed
    with pytest.raises(SystemExit):
        main(["plan", str(video), "--model", "nano-matching", "--device", "cpu"])
    assert "nano-matching predicts no geometry" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-frames", "-3"], "max_frames is -3; expected at least 1"),
        (["--device", "gpu"], "device gpu: cannot be used here"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["reconstruct", "-o", "out"]], ids=["plan", "reconstruct"])
def test_settings_out_of_range_are_one_line(command, flags, said, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([*command, str(video), *flags])
    errors = capsys.readouterr().err
    assert exit_.value.code == 1 and errors.startswith(f"flow3r: {said}") and errors.count("\n") == 1


def test_the_command_reconstructs_all_frames_in_windows_and_leaves_only_what_was_asked_for(video, tmp_path, capsys):
    from flow3r.model.checkpoints import save_model

    save_model(Flow3r(TINY), tmp_path / "tiny.safetensors")
    out = tmp_path / "out"
    settings = ["--max-frames", "0", "--views-per-window", "16", "--shot", "all", "--formats", "tum,npz"]
    main(["reconstruct", str(video), "-o", str(out), "--model", str(tmp_path / "tiny.safetensors"), *settings])
    assert "40 frames" in capsys.readouterr().out
    assert len((out / "trajectory.tum").read_text().strip().splitlines()) >= 40
    assert np.load(out / "reconstruction.npz")["depth"].shape[0] == 40
    assert {path.name for path in out.iterdir()} == {"trajectory.tum", "reconstruction.npz", "manifest.json"}


def test_sizes_are_told_without_reading_and_are_those_of_the_frames(video, tmp_path, monkeypatch):
    from PIL import Image

    exif = Image.Exif()
    for number, orientation in enumerate((1, 6, 3, 8)):
        exif[0x0112] = orientation
        Image.new("RGB", (40 + number, 30)).save(tmp_path / f"{number}.jpg", exif=exif)
    folder, clip = open_source(tmp_path), open_source(video)
    expected = [frame.image.shape[:2] for frame in folder.frames(range(4))]
    assert expected == [(30, 40), (41, 30), (30, 42), (43, 30)]
    assert frame_sizes(Excerpt(clip, 3, 9), range(6)) == [(64, 96)] * 6

    class Plain:
        name, frames, timestamps = "plain", folder.frames, folder.timestamps

        def __len__(self):
            return 4

    assert frame_sizes(Plain(), [1, 2]) == expected[1:3]
    monkeypatch.setattr("flow3r.data.images.read_image", lambda path: pytest.fail(f"{path} was read"))
    assert frame_sizes(folder, range(4)) == expected
    (tmp_path / "4.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"4\.png: not an image"):
        frame_sizes(open_source(tmp_path), [4])
    assert read_image(tmp_path / "0.jpg").shape == (30, 40, 3)
