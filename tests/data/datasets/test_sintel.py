"""MPI-Sintel: depth, cameras and flow are read as released; sky is unknown; a real flow file warps its image."""

from pathlib import Path

import numpy as np
import pytest
from rendered import Rendered, check_frames, rendered_scene
from sintel_on_disk import rigid_flow, write_sintel

from flow3r.data.datasets.sintel import EVALUATED, SINTEL, read_flow
from flow3r.data.images import read_image
from flow3r.errors import InputError

SKY, HIDDEN = np.zeros((48, 64), dtype=bool), np.zeros((48, 64), dtype=bool)
SKY[:6], HIDDEN[20:30, 20:25] = True, True


@pytest.fixture(scope="module")
def truth() -> Rendered:
    return rendered_scene(3)


@pytest.fixture
def root(truth: Rendered, tmp_path: Path) -> Path:
    write_sintel(tmp_path / "training", "alley_2", truth, SKY, HIDDEN)
    return tmp_path


def test_a_sequence_comes_back(root: Path, truth: Rendered):
    (sequence,) = SINTEL.sequences(root)
    frames = list(sequence.frames(range(3)))
    check_frames(frames, truth, depth_step=1e-6, depth_relative=1e-6)
    assert sequence.timestamps().tolist() == [1, 2, 3]
    assert (frames[0].depth[:6] == 0).all() and (frames[0].depth[6:] > 0).all()
    np.testing.assert_allclose(frames[2].world_from_camera, truth.world_from_camera[2], atol=1e-12)
    assert len(SINTEL.sequences(root / "training")) == 1


def test_flow_leads_to_the_next_frame_and_is_covisible_where_it_is_seen_there(root: Path, truth: Rendered):
    (sequence,) = SINTEL.sequences(root)
    displacement, covisible = sequence.flow(1, 2)
    np.testing.assert_allclose(displacement, rigid_flow(truth, 1), atol=1e-4)
    assert not covisible[HIDDEN].any() and covisible[0, 0] == 0
    x = np.arange(64) + 0.5 + displacement[..., 0]
    assert not covisible[(x < 0) | (x >= 64)].any() and covisible.mean() > 0.5
    assert sequence.flow(0, 2) is None and sequence.flow(1, 0) is None and sequence.flow(2, 2) is None


def test_unknown_flow_is_neither_large_nor_covisible(root: Path):
    file = root / "training/flow/alley_2/frame_0001.flo"
    content = bytearray(file.read_bytes())
    content[12 + 8 * 640 : 12 + 8 * 641] = np.array([1.7e9, 1.7e9], "<f4").tobytes()
    file.write_bytes(content)
    displacement, covisible = SINTEL.sequences(root)[0].flow(0, 1)
    assert (displacement[10, 0] == 0).all() and covisible[10, 0] == 0


def test_frames_without_camera_or_depth_are_counted_and_bridge_no_flow(root: Path):
    (root / "training/camdata_left/alley_2/frame_0002.cam").unlink()
    (sequence,) = SINTEL.sequences(root)
    assert sequence.left_out == {"no camera file": 1}
    assert sequence.flow(0, 1) is None  # frames 1 and 3


def test_files_cut_short_are_named(root: Path):
    depth = root / "training/depth/alley_2/frame_0001.dpt"
    depth.write_bytes(depth.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"frame_0001.dpt: not a whole file"):
        next(SINTEL.sequences(root)[0].frames([0]))
    (root / "training/camdata_left/alley_2/frame_0003.cam").write_bytes(b"PIEH")
    with pytest.raises(InputError, match=r"frame_0003.cam"):
        len(SINTEL.sequences(root)[0])


def test_a_wrong_root_says_what_is_there(tmp_path: Path):
    (tmp_path / "MPI-Sintel-complete.zip").write_bytes(b"")
    with pytest.raises(InputError, match=r"no camdata_left/\*.*MPI-Sintel-complete.zip"):
        SINTEL.sequences(tmp_path)


def test_fourteen_sequences_are_evaluated():
    assert len(set(EVALUATED)) == 14


def test_a_real_flow_file_warps_the_next_image_onto_the_first(shared: Path):
    import cv2

    folder = shared / "data/flow_gt/sintel_pair"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    flow = read_flow(folder / "frame_0001.flo")
    first, second = (read_image(folder / f"frame_000{k}.png") for k in (1, 2))
    assert flow.shape == (436, 1024, 2)
    x, y = np.meshgrid(np.arange(1024), np.arange(436))
    warped = cv2.remap(second, (x + flow[..., 0]).astype(np.float32), (y + flow[..., 1]).astype(np.float32), 1)
    unmoved = np.abs(first.astype(int) - second).mean()
    assert np.abs(first.astype(int) - warped).mean() < 0.4 * unmoved
