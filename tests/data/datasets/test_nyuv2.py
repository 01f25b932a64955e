"""NYUv2: images and arrays of depth, without cameras."""

from pathlib import Path

import numpy as np
import pytest
from nyuv2_on_disk import write_nyuv2
from rendered import rendered_scene

from flow3r.data.datasets.nyuv2 import NYUV2
from flow3r.errors import InputError


def test_images_and_depth_come_back(tmp_path: Path):
    truth = rendered_scene(3)
    write_nyuv2(tmp_path, truth)
    (tmp_path / "val/nyu_depths/00002.npy").unlink()
    (sequence,) = NYUV2.sequences(tmp_path)
    assert len(sequence) == 2 and sequence.left_out == {"no depth file": 1}
    for k, frame in zip((0, 2), sequence.frames(range(2))):
        assert (frame.image == truth.images[k]).all() and frame.name == f"{k + 1:05d}.png"
        assert (frame.depth[0, :2] == 0).all() and np.allclose(frame.depth[1:], truth.depth[k][1:])
        assert frame.intrinsics is None and frame.world_from_camera is None


def test_what_cannot_be_read_is_named(tmp_path: Path):
    write_nyuv2(tmp_path, rendered_scene(2))
    np.save(tmp_path / "val/nyu_depths/00001.npy", np.zeros((48, 64), dtype=np.uint8))
    (tmp_path / "val/nyu_depths/00002.npy").write_bytes(b"\x93NUMPY")
    (sequence,) = NYUV2.sequences(tmp_path)
    with pytest.raises(InputError, match=r"00001.npy: uint8 of shape"):
        next(sequence.frames([0]))
    with pytest.raises(InputError, match=r"00002.npy: not an array"):
        next(sequence.frames([1]))
    with pytest.raises(InputError, match=r"no nyu_images.*it holds 00001.png"):
        NYUV2.sequences(tmp_path / "val/nyu_images")
