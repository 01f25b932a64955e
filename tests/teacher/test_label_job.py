"""The labelling job: what it stores is true to the source, and what it finished survives anything."""

import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fixed_teacher import FixedTeacher
from made_media import numbered_frame, texture, write_video
from PIL import Image

from flow3r import cli
from flow3r.data.labels import LabelStore
from flow3r.errors import LabelStoreError
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.label import label_videos


@pytest.fixture(scope="module")
def pan(tmp_path_factory) -> Path:
    """Two shots of 12 frames at 25 fps, 240 x 320: the camera moves 8 px a frame to the right."""
    images = []
    for seed in (1, 2):
        canvas = texture(240, 480, seed, coarseness=2.5)
        images += [canvas[:, 8 * k : 8 * k + 320] // (3 - seed) for k in range(12)]
    return write_video(tmp_path_factory.mktemp("pan") / "pan.mp4", images)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_labels_are_true_on_the_grid_they_are_stored_on(pan, tmp_path):
    summary = label_videos([pan], tmp_path, ClassicalTeacher(), pairs_per_frame=0.5, progress=False)
    store = LabelStore(tmp_path)
    assert summary.ok
    assert summary.accepted > 10
    assert (summary.written, summary.frames) == (2, 24)
    for info in store.segments():
        assert info.size == (112, 154)
        assert info.shot in ((0, 12), (12, 24))
        assert info.indices == tuple(range(*info.shot))  # no pair crosses the cut
        np.testing.assert_allclose(info.timestamps, np.arange(*info.shot) / 25, atol=1e-6)
        assert info.original_sizes == ((240, 320),) * 12
        flow, scale = store.flow(info, range(len(info.pairs))), np.array(info.model_from_original[0])[0, 0]
        for row, (i, j) in enumerate(info.pairs):
            covisible = flow.covisible[0, row] > 0
            error = flow.displacement[0, row][covisible] - torch.tensor([-8.0 * scale * (j - i), 0.0])
            assert error.norm(dim=-1).median() < 0.25
            assert info.covisible_share[row] == pytest.approx(float(flow.covisible[0, row].mean()), abs=0.01)
            assert info.median_flow[row] == pytest.approx(8 * scale * abs(j - i), abs=0.3)


def test_the_sequences_of_a_dataset_are_labelled_by_their_names_there(pan, tmp_path):
    (tmp_path / "root" / "inner").mkdir(parents=True)
    shutil.copy(pan, tmp_path / "root" / "inner" / "pan.mp4")
    store = tmp_path / "labels"
    arguments = ["label", str(tmp_path / "root"), "-o", str(store), "--dataset", "videos", "--tokens", "12", "24"]
    cli.main(arguments)
    assert {segment.source for segment in LabelStore(store).segments()} == {"inner/pan"}
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--shards", "local"])


def test_frames_and_vectors_are_scaled_to_the_grid(pan, tmp_path):
    """The fixed teacher speaks in pixels of its own images, 336 long; the grid is 154 wide."""
    label_videos([pan], tmp_path, FixedTeacher(), progress=False)
    store = LabelStore(tmp_path)
    info = store.segments()[1]
    i, j = info.pairs[0]
    flow = store.flow(info, [0]).displacement[0, 0]
    np.testing.assert_allclose(flow[..., 0], (j - i) * 154 / 336, atol=1 / 16)
    np.testing.assert_allclose(flow[..., 1], 0.5 * 154 / 336, atol=1 / 16)
    affine = np.array(info.model_from_original[3])
    corners = affine @ np.array([[0, 320], [0, 240], [1, 1]])
    assert corners[0, 0] <= 0.6
    assert corners[0, 1] >= 153.4
    stored = store.images(info, [3])[0].astype(float)
    column = texture(240, 480, 2, coarseness=2.5)[:, 24:344].mean((0, 2))
    place = (np.arange(154) + 0.5 - affine[0, 2]) / affine[0, 0] - 0.5
    assert np.abs(stored.mean((0, 2)) - np.interp(place, np.arange(320), column)).mean() < 3


def test_refusals_are_kept_with_their_reasons_and_counted(pan, tmp_path):
    summary = label_videos([pan], tmp_path, FixedTeacher(reach=2), progress=False)
    infos = LabelStore(tmp_path).segments()
    refused = [refusal for info in infos for refusal in info.refusals]
    assert summary.refused == {"too long": len(refused)}
    assert all(abs(refusal.source - refusal.target) > 2 for refusal in refused)
    assert summary.accepted == sum(len(info.pairs) for info in infos)
    assert any("refused: too long" in line for line in summary.lines())


def test_a_second_run_finds_everything_done(pan, tmp_path):
    first = label_videos([pan], tmp_path, FixedTeacher(), progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    class Untouchable(FixedTeacher):
        def __call__(self, images, pairs):
            raise AssertionError("the teacher was asked again")

    second = label_videos([pan], tmp_path, Untouchable(), progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert (second.written, second.kept) == (0, first.written)
    assert (second.accepted, second.refused) == (first.accepted, first.refused)


def test_other_settings_need_another_folder(pan, tmp_path):
    label_videos([pan], tmp_path, FixedTeacher(), progress=False)
    with pytest.raises(LabelStoreError, match=r"other settings \(parameters\)"):
        label_videos([pan], tmp_path, FixedTeacher(reach=9), progress=False)
    with pytest.raises(LabelStoreError, match=r"other settings \(tokens\)"):
        label_videos([pan], tmp_path, FixedTeacher(), tokens=(40, 60), progress=False)


def test_sources_that_fail_are_reported_and_the_others_go_on(pan, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    Image.fromarray(texture(60, 60)).save(tmp_path / "one.png")
    (tmp_path / "tiny").mkdir()
    for number in range(2):
        Image.fromarray(texture(10, 60)).save(tmp_path / "tiny" / f"{number}.png")
    sources = [tmp_path / "text.mp4", tmp_path / "gone.mp4", tmp_path / "one.png", tmp_path / "tiny", pan]
    summary = label_videos(sources, tmp_path / "out", FixedTeacher(), progress=True)
    assert not summary.ok
    assert [Path(source).name for source, _ in summary.failures] == ["text.mp4", "gone.mp4", "one.png", "tiny"]
    said = ["not a video", "no such file", "one frame", "at least 14 x 14"]
    assert all(word in error for word, (_, error) in zip(said, summary.failures))
    assert (summary.sources, summary.written) == (5, 2)


def test_images_are_labelled_too(tmp_path):
    for number in range(6):
        Image.fromarray(numbered_frame(number, 120, 200)).save(tmp_path / f"{number}.png")
    summary = label_videos([tmp_path, str(tmp_path / "[0-3].png")], tmp_path / "out", FixedTeacher(), progress=False)
    assert summary.ok
    assert (summary.written, summary.frames) == (2, 10)
    assert summary.accepted > 0


def test_a_truncated_video_is_labelled_as_far_as_it_goes(tmp_path):
    frames = [texture(96, 128, seed=k) for k in range(30)]
    whole = write_video(tmp_path / "whole.mp4", frames, options={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        summary = label_videos([tmp_path / "cut.mp4"], tmp_path / "out", FixedTeacher(), progress=False)
    assert any("cut short" in str(warning.message) for warning in caught)
    assert summary.ok
    assert 5 < summary.frames < 30


JOB = """
import sys
sys.path.insert(0, sys.argv[3])
from fixed_teacher import FixedTeacher
from flow3r.teacher.label import label_videos
label_videos([sys.argv[1]], sys.argv[2], FixedTeacher(delay=float(sys.argv[4])), segment_frames=3, progress=False)
"""


def test_a_killed_job_loses_nothing_that_was_finished(pan, tmp_path, repository):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", JOB, str(pan), str(tmp_path / "killed"), here, "1.0"]
    job = subprocess.Popen(command, cwd=repository)
    try:
        deadline = time.monotonic() + 240
        while len(list((tmp_path / "killed").glob("[!.]*.labels"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        job.send_signal(signal.SIGKILL)
        job.wait()
    finished = content(tmp_path / "killed")
    segments = [name for name in finished if name.endswith(".labels")]
    assert 2 <= len(segments) < 8
    resumed = label_videos([pan], tmp_path / "killed", FixedTeacher(), segment_frames=3, progress=False)
    label_videos([pan], tmp_path / "whole", FixedTeacher(), segment_frames=3, progress=False)
    assert resumed.kept == len(segments)
    assert resumed.written == 8 - len(segments)
    after = content(tmp_path / "killed")
    assert {name: after[name] for name in segments} == {name: finished[name] for name in segments}
    assert after == content(tmp_path / "whole")
