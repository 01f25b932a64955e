"""Labels that are wrong in one of the usual ways are caught, and the fault is named; right ones pass."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from made_media import texture
from posed_on_disk import write_cameras as write
from synthetic_room import HIGH, LOW, intrinsics_of, render, walk
from tum_on_disk import relay_freiburg1

from flow3r import cli
from flow3r.data.conventions import AXES, Variant
from flow3r.data.datasets.folder import CAMERAS
from flow3r.data.datasets.posed_folders import POSED_FOLDERS
from flow3r.data.transforms import undistort
from flow3r.data.validate import Check, validate
from flow3r.data.video import open_source
from flow3r.draw import save_png
from flow3r.errors import InputError

COUNT = 12
Content = dict[str, Any]


SIZE, FOCAL = (144, 192), 150.0


def papered(points: np.ndarray) -> np.ndarray:
    """Colours of a paper on the walls of the room, which does not repeat: at 60 pixels a metre."""
    paper = texture(600, 700, seed=3)
    distance = np.minimum(np.abs(points - LOW), np.abs(points - HIGH))
    wall, side = distance.argmin(-1), (np.abs(points - LOW) > np.abs(points - HIGH)).any(-1)
    u = np.where(wall == 0, points[..., 2], points[..., 0]) + 5.0 + 0.37 * wall + 0.11 * side
    v = np.where(wall == 1, points[..., 2], points[..., 1]) + 5.0
    return cv2.remap(paper, np.float32(60 * u), np.float32(60 * v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def scene(folder: Path, colour: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Path:
    """A walk through the room, rendered exactly; `colour` of points and of the room's own two colours."""
    intrinsics, entries = intrinsics_of(FOCAL, SIZE), []
    for k, pose in enumerate(walk(COUNT)):
        depth, points, plain = render(pose, intrinsics, SIZE)
        save_png(folder / f"{k:02d}.png", torch.from_numpy(colour(points, plain)).movedim(-1, 0) / 255)
        cv2.imwrite(str(folder / f"{k:02d}_depth.png"), (depth * 1000).round().astype(np.uint16))
        entry = {"image": f"{k:02d}.png", "depth": f"{k:02d}_depth.png", "K": intrinsics.tolist()}
        entries.append(entry | {"c2w": pose.tolist()})
    write(folder, {"pixel_centre": 0.5, "depth_scale": 0.001, "frames": entries})
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene(tmp_path_factory.mktemp("papered"), lambda points, plain: papered(points))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without anything to match."""
    return scene(tmp_path_factory.mktemp("plain"), lambda points, plain: plain)


def planted(world: Path, folder: Path, fault: Callable[[Content], None]) -> list[Check]:
    """What is found in the scene once `fault` has edited its cameras."""
    for file in world.glob("*.png"):
        (folder / file.name).symlink_to(file)
    content = json.loads((world / CAMERAS).read_text())
    fault(content)
    write(folder, content)
    return validate(POSED_FOLDERS, folder)


def failures(checks: list[Check]) -> str:
    return "; ".join(f"{check.name}: {check.said}" for check in checks if check.status == "fail")


def each_pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Content], None]:
    def fault(content: Content) -> None:
        for entry in content["frames"]:
            entry["c2w"] = change(np.array(entry["c2w"])).tolist()

    return fault


def halve_focal(content: Content) -> None:
    for entry in content["frames"]:
        entry["K"][0][0], entry["K"][1][1] = entry["K"][0][0] / 2, entry["K"][1][1] / 2


def shuffle(key: str | None) -> Callable[[Content], None]:
    """Whole frames, or what one key says of them."""

    def fault(content: Content) -> None:
        order = np.random.default_rng(0).permutation(COUNT)
        entries = content["frames"]
        content["frames"] = [
            entries[o] if key is None else entry | {key: entries[o][key]} for entry, o in zip(entries, order)
        ]

    return fault


def without_cameras_depth(content: Content) -> None:
    for entry in content["frames"]:
        del entry["depth"]


TURNS = np.diag([1.0, -1, -1, 1])
FAULTS = {
    "w2c for c2w": (each_pose(np.linalg.inv), "world-to-camera; expected camera-to-world"),
    "OpenGL axes": (each_pose(lambda pose: pose @ TURNS), "OpenGL"),
    "w2c in OpenGL axes": (each_pose(lambda pose: np.linalg.inv(pose @ TURNS)), "world-to-camera.*OpenGL"),
    "mirrored": (each_pose(lambda pose: pose @ np.diag([1.0, -1, 1, 1])), "handedness.*left-handed"),
    "mm for m": (lambda content: content.update(depth_scale=1.0), r"1000 times too large.*millimetres for metres"),
    "half focal": (halve_focal, "focal length is half"),
    "shuffled poses": (shuffle("c2w"), "frames are shuffled"),
    "shuffled images": (shuffle("image"), "frames are shuffled"),
    "shuffled frames": (shuffle(None), "order: frames are shuffled"),
}


def test_right_labels_pass(world: Path):
    checks = validate(POSED_FOLDERS, world)
    assert not failures(checks)
    assert {"files", "finite", "depth", "rotations", "conventions", "reprojection", "order"} <= {c.name for c in checks}


def test_cameras_without_depth_pass_and_inverted_ones_are_told_by_epipolar_lines(world: Path, tmp_path: Path):
    def inverted(content: Content) -> None:
        without_cameras_depth(content)
        each_pose(np.linalg.inv)(content)

    for name, fault, expected in (("right", without_cameras_depth, ""), ("wrong", inverted, "world-to-camera")):
        (tmp_path / name).mkdir()
        found = failures(planted(world, tmp_path / name, fault))
        assert expected in found and bool(found) == bool(expected)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught_and_named(name: str, world: Path, tmp_path: Path):
    fault, expected = FAULTS[name]
    found = failures(planted(world, tmp_path, fault))
    assert re.search(expected, found), found


@pytest.mark.parametrize("name", ["w2c for c2w", "OpenGL axes", "mm for m", "half focal"])
def test_without_texture_the_depths_tell(name: str, plain: Path, tmp_path: Path):
    assert not failures(validate(POSED_FOLDERS, plain))
    fault, expected = FAULTS[name]
    found = failures(planted(plain, tmp_path, fault))
    assert re.search(expected, found), found


def test_a_missing_file_is_named(world: Path, tmp_path: Path):
    def lose(content: Content) -> None:
        (tmp_path / content["frames"][7]["depth"]).unlink()

    assert "07_depth.png: missing" in failures(planted(world, tmp_path, lose))


def test_a_damaged_file_is_named_and_the_other_frames_are_still_checked(world: Path, tmp_path: Path):
    def damage(content: Content) -> None:
        (tmp_path / "03.png").unlink()
        (tmp_path / "03.png").write_bytes(b"")

    checks = planted(world, tmp_path, damage)
    assert "03.png: not an image" in failures(checks)
    assert {check.status for check in checks if check.name == "reprojection"} == {"pass"}


def test_poses_without_depth_anywhere_are_no_fault_but_depth_of_some_frames_is(world: Path, tmp_path: Path):
    def some(content: Content) -> None:
        del content["frames"][2]["depth"]

    assert "depth: 1 of 12 frames have none" in failures(planted(world, tmp_path, some))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("inverted", [False, True])
def test_a_variant_undoes_what_its_name_says(axes: str, inverted: bool):
    opencv = np.eye(4)
    opencv[:3, :3] = cv2.Rodrigues(np.array([0.3, -0.5, 0.2]))[0]
    opencv[:3, 3] = 1.0, 2.0, 3.0
    opencv_from_given = np.eye(4)
    opencv_from_given[:3, :3] = AXES[axes]
    given = opencv @ opencv_from_given
    given = np.linalg.inv(given) if inverted else given
    np.testing.assert_allclose(Variant(inverted, axes).poses(given), opencv, atol=1e-12)


def test_only_labelled_datasets_are_validated(tmp_path: Path):
    from flow3r.data.catalogue import find_dataset

    with pytest.raises(InputError, match="no labels to validate"):
        validate(find_dataset("videos"), tmp_path)


def sample(shared: Path, name: str) -> Path:
    folder = shared / "data" / "sequences_with_gt" / name
    if not folder.is_dir():
        pytest.skip(f"sample data not found at {folder}")
    return folder


def printed_by_command(path: Path, capsys: pytest.CaptureFixture) -> dict[str, str]:
    """The status of every check that `flow3r data validate PATH` prints; it exits with code 1 if one fails."""
    cli.main(["data", "validate", str(path)])
    return dict(re.findall(r"^\S+ +(\w+) +(pass|fail|unknown|note) ", capsys.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("name", ["hololens_office", "lund_door", "pi3_room_synthetic", "rgbd_mini5", "tum_fr1_rpy"])
def test_real_sequences_with_ground_truth_pass(name: str, shared: Path, capsys):
    found = printed_by_command(sample(shared, name), capsys)
    assert {found[check] for check in ("files", "finite", "rotations", "conventions", "reprojection")} == {"pass"}
    assert found["depth"] == ("note" if name == "lund_door" else "pass")  # it has cameras alone
    assert found["order"] == ("unknown" if name == "rgbd_mini5" else "pass")  # five frames


def test_a_real_sequence_in_the_layout_of_its_benchmark_passes(shared: Path, tmp_path: Path, capsys):
    relay_freiburg1(sample(shared, "tum_fr1_rpy"), tmp_path / "rgbd_dataset_freiburg1_rpy")
    found = printed_by_command(tmp_path, capsys)
    assert {found[check] for check in ("finite", "depth", "conventions", "reprojection", "order")} == {"pass"}
    assert found["files"] == "pass"


def test_four_views_too_far_apart_to_match_are_said_to_be_unknown(shared: Path, tmp_path: Path, capsys):
    """One instant of a moving person, seen by four calibrated cameras a quarter turn apart."""
    folder = sample(shared, "pose2sim_4cam_person_dynamic")
    entries = []
    for camera in json.loads((folder / CAMERAS).read_text())["cameras"]:
        (frame,) = open_source(folder / camera["video"]).frames([50])
        intrinsics = np.array(camera["K"]) + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        image, _ = undistort(frame.image, None, intrinsics, camera["distortion_opencv_k1k2p1p2k3"])
        file = f"{Path(camera['video']).stem}.jpg"
        cv2.imwrite(str(tmp_path / file), image[..., ::-1])
        entries.append({"image": file, "K": intrinsics.tolist(), "c2w": camera["c2w"]})
    write(tmp_path, {"pixel_centre": 0.5, "frames": entries})
    found = printed_by_command(tmp_path, capsys)
    assert {check: status for check, status in found.items() if status != "pass"} == {
        "depth": "note",
        "reprojection": "unknown",
        "order": "unknown",
    }
