"""reconstruction.npz: a round trip, for readers that know nothing of us too."""

import dataclasses

import numpy as np
import pytest
from synthetic_room import room_reconstruction

from flow3r.errors import InputError
from flow3r.export import load_reconstruction
from flow3r.export.arrays import save_arrays
from flow3r.types import Reconstruction


def test_every_field_comes_back(tmp_path):
    room = room_reconstruction()
    save_arrays(room, tmp_path / "reconstruction.npz")
    for path in (tmp_path / "reconstruction.npz", tmp_path):
        again = load_reconstruction(path)
        for field in dataclasses.fields(Reconstruction):
            before, after = getattr(room, field.name), getattr(again, field.name)
            if field.name == "timings":
                assert after == {}
            elif isinstance(before, np.ndarray):
                assert before.dtype == after.dtype
                np.testing.assert_array_equal(before, after)
            else:
                assert before == after


def test_numpy_reads_it_without_pickle(tmp_path):
    room = room_reconstruction()
    save_arrays(room, tmp_path / "reconstruction.npz")
    with np.load(tmp_path / "reconstruction.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)
        assert archive["names"].tolist() == list(room.names)
        np.testing.assert_array_equal(archive["points"], room.points)


def test_files_that_are_not_ours_or_damaged_are_refused(tmp_path):
    path = tmp_path / "reconstruction.npz"
    with pytest.raises(InputError, match="no such file"):
        load_reconstruction(path)
    save_arrays(room_reconstruction(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a readable npz"):
        load_reconstruction(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"not a readable npz file; expected a reconstruction\.npz that flow3r recons"):
        load_reconstruction(path)
    np.savez(path, points=np.zeros(3))
    with pytest.raises(InputError, match="format version None, expected 1"):
        load_reconstruction(path)
    np.savez(path, points=np.zeros(3), format_version=np.array(1))
    with pytest.raises(InputError, match="lacks colours, confidence"):
        load_reconstruction(path)
    room = {name: value for name, value in vars(room_reconstruction()).items() if name != "timings"}
    np.savez(path, **room, format_version=np.array(1), flavour=np.zeros(3))
    with pytest.raises(InputError, match="has unknown flavour"):
        load_reconstruction(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "reconstruction.npz"
    save_arrays(room_reconstruction(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable npz"):
        load_reconstruction(path)
