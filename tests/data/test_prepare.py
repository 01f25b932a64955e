"""Clips are drawn from what training has not seen, cut, handed to MegaSaM, and taken back by residual and hash."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_media import texture, write_video

from flow3r.data.datasets.megasam import MEGASAM
from flow3r.data.images import read_image
from flow3r.data.prepare import CLIPS, CURATIONS, curate, ingest, job_script, read_clips
from flow3r.errors import InputError

sys.path.insert(0, str(Path(__file__).parent / "datasets"))

SHORT = replace(CURATIONS["kinetics"], clips=2, least_frames=10, most_frames=12)
SIZE = (72, 96)
TINTS = np.uint8([[1, 1, 1], [0, 0, 1], [0, 1, 0]])


def pan(seed: int, count: int, step: int = 2) -> list[np.ndarray]:
    """A camera that turns past a picture."""
    picture = texture(SIZE[0], SIZE[1] + step * count, seed)
    return [picture[:, step * k : step * k + SIZE[1]] for k in range(count)]


def willing(images: np.ndarray) -> str:
    return "stands still" if np.abs(images[0].astype(int) - images[-1]).mean() < 4 else ""


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips that will do, and one each: of training, of a training video, too short, cut up, still, damaged."""
    root = tmp_path_factory.mktemp("kinetics")
    videos = {
        "val/run/-good_one_00_000001_000011": pan(0, 30),
        "test/good_two_000_000001_000011": pan(1, 14),
        "train/run/known______000001_000011": pan(2, 30),
        "val/run/known______000050_000060": pan(2, 30),
        "val/run/short______000001_000011": pan(3, 6),
        "val/run/cut_up_____000001_000011": [tint * f for tint in TINTS for f in pan(4, 8)],
        "val/run/still______000001_000011": [pan(7, 1)[0]] * 20,
    }
    for name, images in videos.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / f"{name}.mp4", images)
    (root / "val/run/damaged____000001_000011.mp4").write_bytes(b"nothing")
    return root


@pytest.fixture
def curated(kinetics: Path, tmp_path: Path) -> Path:
    curate("kinetics", kinetics, tmp_path / "out", SHORT, willing)
    return tmp_path / "out"


def test_only_held_out_clips_that_will_do_are_taken_and_the_rest_is_counted(kinetics: Path, tmp_path: Path):
    left_out = curate("kinetics", kinetics, tmp_path, replace(SHORT, clips=9), willing)
    record = read_clips(tmp_path)
    assert {clip["source"] for clip in record["clips"]} == {
        "val/run/-good_one_00_000001_000011",
        "test/good_two_000_000001_000011",
    }
    assert left_out == record["left_out"] == {
        "fewer than 10 frames": 1, "no shot of 10 frames": 1, "stands still": 1, "cannot be read": 1
    }  # fmt: skip


def test_the_frames_are_those_of_the_middle_of_the_shot_and_hashes_say_of_which_file(kinetics: Path, curated: Path):
    for clip in read_clips(curated)["clips"]:
        file = kinetics / f"{clip['source']}.mp4"
        assert clip["source_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        frames = sorted((curated / "frames" / clip["scene"]).iterdir())
        assert [frame.name for frame in frames] == [f"{k:06d}.jpg" for k in range(12)]
        assert clip["frames"] == list(range(clip["frames"][0], clip["frames"][0] + 12))
        first = 9 if "one" in clip["source"] else 1
        assert clip["frames"][0] == first
        shown = pan(0 if "one" in clip["source"] else 1, 30 if "one" in clip["source"] else 14)[first]
        assert np.abs(read_image(frames[0]).astype(float) - shown).mean() < 12


def test_the_same_seed_draws_the_same_clips(kinetics: Path, curated: Path, tmp_path: Path):
    curate("kinetics", kinetics, tmp_path / "again", SHORT, willing)
    assert (tmp_path / "again" / CLIPS).read_bytes() == (curated / CLIPS).read_bytes()


def test_epic_needs_a_list_of_what_is_held_out_and_takes_frames_at_its_rate(tmp_path: Path):
    root = tmp_path / "epic"
    for name in ("P01_01", "P01_02"):
        (root / "P01" / "videos").mkdir(parents=True, exist_ok=True)
        write_video(root / "P01" / "videos" / f"{name}.MP4", pan(0, 50), rate=50)
    curation = replace(CURATIONS["epic"], least_frames=8, most_frames=8)
    with pytest.raises(InputError, match=r"neither EPIC_100_validation\.csv nor"):
        curate("epic", root, tmp_path / "out", curation, willing)
    (root / "EPIC_100_validation.csv").write_text("narration_id,video_id\nP01_02_0,P01_02\nP01_02_1,P01_02\n")
    curate("epic", root, tmp_path / "out", curation, willing)
    (clip,) = read_clips(tmp_path / "out")["clips"]
    assert clip["source"] == "P01_02" and np.diff(clip["frames"]).tolist() == [5] * 7


def write_results(curated: Path, results: Path, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
    """A result for each clip, as MegaSaM writes it: an exact walk along a papered wall. `change` of clip and poses."""
    from megasam_on_disk import write_consistent
    from rendered import Rendered
    from synthetic_room import intrinsics_of, walk

    size, intrinsics = (144, 192), intrinsics_of(150.0, (144, 192))
    paper = texture(900, 1200, seed=3)
    for number, clip in enumerate(read_clips(curated)["clips"]):
        poses = walk(len(clip["frames"]))
        images, depths = zip(*(wall(pose, intrinsics, size, paper) for pose in poses))
        scene = Rendered(np.stack(images), np.stack(depths), intrinsics, change(number, poses))
        write_consistent(results, scene, clip["scene"])


def wall(pose: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], paper: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a camera sees of a papered wall at z = 5, and its depth."""
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    depth = (5 - pose[2, 3]) / rays[..., 2]
    points = pose[:3, 3] + rays * depth[..., None]
    place = np.float32(100 * (points[..., :2] + [4.0, 4.0]))
    image = cv2.remap(paper, place[..., 0], place[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return image, depth


def test_results_are_accepted_by_residual_and_hashed(curated: Path, tmp_path: Path):
    def second_is_wrong(number: int, poses: np.ndarray) -> np.ndarray:
        return poses if number == 0 else np.linalg.inv(poses)

    write_results(curated, tmp_path / "results", second_is_wrong)
    manifest = ingest(curated, tmp_path / "results")
    (kept,), (rejected,) = manifest["accepted"], manifest["rejected"]
    file = tmp_path / "results" / "outputs_cvd" / f"{kept['scene']}_sgd_cvd_hr.npz"
    assert kept["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() and kept["residual"] < 0.005
    assert re.match(r"residual 0\.\d+ above 0\.01", rejected["reason"])
    assert json.loads((curated / "manifest.json").read_text()) == manifest
    assert [clip.name for clip in MEGASAM.sequences(curated / "megasam")] == [kept["scene"]]


def test_clips_without_a_whole_result_are_rejected_with_the_reason(curated: Path, tmp_path: Path):
    write_results(curated, tmp_path / "results", lambda number, poses: poses)
    first, second = (clip["scene"] for clip in read_clips(curated)["clips"])
    (tmp_path / "results" / "outputs_cvd" / f"{first}_sgd_cvd_hr.npz").unlink()
    (tmp_path / "results" / "outputs_cvd" / f"{second}_sgd_cvd_hr.npz").write_bytes(b"damaged")
    manifest = ingest(curated, tmp_path / "results")
    assert not manifest["accepted"]
    reasons = {entry["scene"]: entry["reason"] for entry in manifest["rejected"]}
    assert reasons[first] == "no result" and "not a result of MegaSaM" in reasons[second]


def test_the_job_runs_each_scene_once_and_goes_on_after_a_failure(tmp_path: Path):
    """In a checkout of stand-ins: `python` notes its arguments, writes results, and fails for one scene."""
    scenes = ["000_-a", "001_b b", "002_c"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "megasam.sh").write_text(job_script(scenes))
    checkout, binary = tmp_path / "mega-sam", tmp_path / "bin"
    binary.mkdir()
    checkout.mkdir()
    python = binary / "python"
    python.write_text(
        '#!/usr/bin/env bash\necho "$*" >> calls.txt\n[[ "$*" == *"001_b b"* ]] && exit 1\n'
        "if [[ $1 == cvd_opt/cvd_opt.py ]]; then mkdir -p outputs outputs_cvd\n"
        'touch "outputs/$3_droid.npz" "outputs_cvd/$3_sgd_cvd_hr.npz"; fi\n'
    )
    python.chmod(0o755)
    environment = os.environ | {"MEGASAM": str(checkout), "PATH": f"{binary}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["bash", tmp_path / "out" / "megasam.sh"], env=environment, check=True)
    results = tmp_path / "out" / "results"
    assert sorted(file.name for file in (results / "outputs_cvd").iterdir()) == [
        "000_-a_sgd_cvd_hr.npz",
        "002_c_sgd_cvd_hr.npz",
    ]
    assert (results / "failed.txt").read_text() == "001_b b\n"
    calls = (checkout / "calls.txt").read_text()
    assert calls.count("test_demo.py") == 2 and calls.count("run_videos.py") == 4
