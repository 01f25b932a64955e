"""ETH3D: photographs and raw depth are undistorted by COLMAP's thin prism fisheye."""

from pathlib import Path

import numpy as np
import pytest
from eth3d_on_disk import SIZE, parameters, write_eth3d
from PIL import Image
from rendered import Rendered, check_frames, rendered_scene
from synthetic_room import walk

from flow3r.data.datasets.eth3d import ETH3D, distort
from flow3r.data.frame import Frame
from flow3r.errors import InputError

pycolmap = pytest.importorskip("pycolmap")
STRONG = parameters(prism=20)


@pytest.fixture(scope="module")
def truth() -> Rendered:
    fx, fy, cx, cy = STRONG[:4]
    poses = walk(3)
    poses[:, :3, 3] *= 0.25  # depth comes from the nearest of rather large pixels
    return rendered_scene(size=SIZE, intrinsics=np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), poses=poses)


def error(frames: list[Frame], truth: Rendered) -> float:
    """Mean relative error of known depth."""
    known = np.stack([frame.depth for frame in frames]) > 0
    return float(np.abs(np.stack([frame.depth for frame in frames]) / truth.depth - 1)[known].mean())


def test_distortion_is_colmaps():
    camera = pycolmap.Camera(model="THIN_PRISM_FISHEYE", width=SIZE[1], height=SIZE[0], params=STRONG)
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, 13), np.linspace(-0.6, 0.6, 11))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    theirs = np.asarray(camera.img_from_cam(rays)).reshape(11, 13, 2)
    u, v = distort(x, y, tuple(STRONG[4:]))
    ours = np.stack([STRONG[0] * u + STRONG[2], STRONG[1] * v + STRONG[3]], axis=-1)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_a_scene_comes_back(truth: Rendered, tmp_path: Path):
    write_eth3d(tmp_path / "courtyard", truth, STRONG)
    (sequence,) = ETH3D.sequences(tmp_path)
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth, depth_relative=0.02)  # within a pixel of the shrunk camera the walls recede by 2 %
    assert error(frames, truth) < 0.004
    assert [frame.name for frame in frames] == ["DSC_0307.JPG", "DSC_0308.JPG", "DSC_0309.JPG"]
    assert (frames[0].depth[14:16, 36:44] == 0).all()
    np.testing.assert_allclose(frames[2].world_from_camera, truth.world_from_camera[2], atol=1e-9)


def test_a_fisheye_without_its_prism_would_show(truth: Rendered, tmp_path: Path):
    write_eth3d(tmp_path / "courtyard", truth, STRONG)
    cameras = tmp_path / "courtyard/dslr_calibration_jpg/cameras.txt"
    plain = " ".join(map(str, parameters(prism=0)))
    cameras.write_text(f"0 THIN_PRISM_FISHEYE {SIZE[1]} {SIZE[0]} {plain}\n")
    assert error(list(ETH3D.sequences(tmp_path)[0].frames(range(3))), truth) > 0.008


def test_images_without_files_are_counted_and_bad_files_named(truth: Rendered, tmp_path: Path):
    scene = tmp_path / "courtyard"
    write_eth3d(scene, truth, STRONG)
    (scene / "images/dslr_images/DSC_0308.JPG").unlink()
    (scene / "ground_truth_depth/dslr_images/DSC_0309.JPG").unlink()
    (sequence,) = ETH3D.sequences(tmp_path)
    assert len(sequence) == 1 and sequence.left_out == {"no image file": 1, "no depth file": 1}
    depth = scene / "ground_truth_depth/dslr_images/DSC_0307.JPG"
    depth.write_bytes(depth.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"DSC_0307.JPG: \d+ float32; expected 168 x 252"):
        next(sequence.frames([0]))
    Image.new("RGB", (168, 252)).save(scene / "images/dslr_images/DSC_0307.JPG")
    with pytest.raises(InputError, match=r"DSC_0307.JPG: is \(252, 168\), its camera \(168, 252\)"):
        next(sequence.frames([0]))
    (scene / "dslr_calibration_jpg/images.txt").unlink()
    with pytest.raises(InputError, match=r"no cameras and images"):
        len(ETH3D.sequences(tmp_path)[0])


def test_a_wrong_root_says_what_is_there(tmp_path: Path):
    (tmp_path / "dslr_calibration_undistorted").mkdir()
    with pytest.raises(InputError, match=r"no \*/dslr_calibration_jpg.*it holds dslr_calibration_undistorted"):
        ETH3D.sequences(tmp_path)
