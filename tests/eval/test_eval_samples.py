"""The file between prediction and score keeps what was written, and refuses what breaks its contract."""

import json
import pickle
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from synthetic_room import intrinsics_of, walk

from flow3r.errors import InputError
from flow3r.eval.samples import FORMAT, Sample, read_facts, read_sample, write_sample

H, W, N = 6, 8, 3
POINT_MAPS = ("local_points", "world_points")


def a_sample(seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    return Sample(
        frames=np.array([4, 6, 8]),
        world_from_camera=walk(N),
        grid_from_image=np.broadcast_to(np.diag([0.5, 0.5, 1.0]), (N, 3, 3)).copy(),
        local_points=random.uniform(1, 5, (N, H, W, 3)).astype(np.float32),
        intrinsics=np.tile(intrinsics_of(9.0, (H, W)), (N, 1, 1)),
        pairs=np.array([[0, 1], [2, 0]]),
        flow=random.normal(0, 4, (2, H, W, 2)).astype(np.float16),
        facts={"method": "exact", "seconds": 0.5},
    )


def arrays_of(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_what_is_written_is_read(tmp_path):
    sample = a_sample()
    write_sample(tmp_path / "deep" / "0.npz", sample)
    read = read_sample(tmp_path / "deep" / "0.npz")
    for name in ("frames", "world_from_camera", "grid_from_image", "local_points", "intrinsics", "pairs", "flow"):
        np.testing.assert_array_equal(getattr(read, name), getattr(sample, name))
    assert read.facts == sample.facts
    assert read.world_points is None


def world_of(sample: Sample) -> np.ndarray:
    """The world points that the sample's local points and poses say, in double precision."""
    points = sample.local_points.astype(np.float64)
    rotation, centre = sample.world_from_camera[:, :3, :3], sample.world_from_camera[:, :3, 3]
    return np.einsum("nij,nhwj->nhwi", rotation, points) + centre[:, None, None]


def test_world_points_and_local_points_say_the_same():
    sample = a_sample()
    from_local = sample.prediction()
    from_world = replace(sample, local_points=None, world_points=world_of(sample)).prediction()
    np.testing.assert_allclose(from_world.local_points, from_local.local_points, atol=1e-5)
    np.testing.assert_allclose(from_world.world_points, from_local.world_points, atol=1e-5)


@pytest.mark.parametrize("given", ["local_points", "world_points"])
@pytest.mark.parametrize("lost", [(), (1,)])
def test_a_world_whose_origin_is_far_away_has_the_same_points(given, lost):
    near = replace(a_sample(), world_points=world_of(a_sample()))
    shift = np.array([1e5, -1e5, 1e5])
    poses = near.world_from_camera.copy()
    poses[:, :3, 3] += shift
    far = replace(near, world_from_camera=poses, world_points=near.world_points + shift)
    near, far = (replace(one, **{name: None for name in POINT_MAPS if name != given}) for one in (near, far))
    near.world_from_camera[list(lost)] = far.world_from_camera[list(lost)] = np.nan
    near, far = near.prediction(), far.prediction()
    np.testing.assert_allclose(far.local_points, near.local_points, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(far.world_points, near.world_points, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(far.world_from_camera, near.world_from_camera, atol=1e-9)
    assert far.world_points.isfinite().any() and far.world_from_camera.dtype == torch.float64


def test_one_wild_camera_does_not_cost_the_others_their_precision():
    sample = a_sample()
    poses = sample.world_from_camera.copy()
    poses[2, :3, 3] = 1e12
    wild = replace(sample, world_from_camera=poses).prediction()
    between = sample.prediction().world_points[0, 1] - sample.prediction().world_points[0, 0]
    np.testing.assert_allclose(wild.world_points[0, 1] - wild.world_points[0, 0], between, atol=1e-5)


def test_without_a_single_camera_points_of_the_world_stay():
    sample = a_sample()
    blind = replace(
        sample, world_points=world_of(sample), local_points=None, world_from_camera=np.full((N, 4, 4), np.nan)
    )
    np.testing.assert_allclose(blind.prediction().world_points[0], world_of(sample), rtol=1e-6)


def test_depth_with_intrinsics_stands_for_points_and_zero_for_none(tmp_path):
    write_sample(tmp_path / "a.npz", a_sample())
    arrays = arrays_of(tmp_path / "a.npz")
    del arrays["local_points"]
    arrays["depth"] = np.full((N, H, W), 2.0, np.float32)
    arrays["depth"][0, 0, 0] = 0
    np.savez(tmp_path / "b.npz", **arrays)
    read = read_sample(tmp_path / "b.npz")
    assert np.isnan(read.local_points[0, 0, 0]).all()
    np.testing.assert_allclose(read.local_points[1, ..., 2], 2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": np.array("other")}, FORMAT),
        ({"frames": None}, "missing: frames"),
        ({"local_points": None}, "one of local_points"),
        ({"world_from_camera": np.zeros((N, 3, 4))}, r"\(3, 3, 4\), expected \(3, 4, 4\)"),
        ({"world_from_camera": np.zeros((N - 1, 4, 4))}, r"expected \(3, 4, 4\)"),
        ({"pairs": None}, "'pairs' is missing"),
        ({"flow": np.zeros((1, H, W, 2), np.float32)}, "'flow' is"),
        ({"frames": np.zeros(N)}, "expected integers"),
        ({"grid_from_image": np.full((N, 3, 3), np.nan)}, "not finite"),
        ({"grid_from_image": np.tile(np.diag([-1.0, 1.0, 1.0]), (N, 1, 1))}, "no crop and resize"),
        ({"grid_from_image": np.tile(np.eye(3)[[1, 0, 2]], (N, 1, 1))}, "no crop and resize"),
        ({"grid_from_image": np.tile(np.diag([1.0, 1.0, 2.0]), (N, 1, 1))}, "no crop and resize"),
        ({"grid_from_image": np.tile(np.array([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]), (N, 1, 1))}, "no crop and"),
        ({"grid_from_image": np.full((N, 3, 3), "a")}, "'grid_from_image' holds <U1, expected floats"),
        ({"world_from_camera": walk(N).swapaxes(1, 2)}, "last row is not"),
        ({"pairs": np.array([[0, 1], [2, N]])}, "'pairs' are not of views 0..2"),
        ({"pairs": np.array([[0, 1], [-1, 0]])}, "'pairs' are not of views 0..2"),
        ({"facts": np.array("{")}, "'facts' is no JSON object"),
        ({"facts": np.array('["weights"]')}, "'facts' is no JSON object"),
    ],
)
def test_a_broken_contract_is_named(tmp_path, change, said):
    write_sample(tmp_path / "a.npz", a_sample())
    arrays = {name: array for name, array in (arrays_of(tmp_path / "a.npz") | change).items() if array is not None}
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_sample(tmp_path / "b.npz")


def test_all_that_is_wrong_is_named_at_once(tmp_path):
    write_sample(tmp_path / "a.npz", a_sample())
    wrong = {"pairs": np.array([[0, 1], [2, N]]), "frames": np.zeros(N), "facts": np.array("1")}
    np.savez(tmp_path / "b.npz", **(arrays_of(tmp_path / "a.npz") | wrong))
    with pytest.raises(InputError) as raised:
        read_sample(tmp_path / "b.npz")
    assert all(said in str(raised.value) for said in ("'pairs' are not of", "expected integers", "no JSON object"))


def test_poses_that_are_not_known_and_cuts_are_no_fault(tmp_path):
    sample = a_sample()
    sample.world_from_camera[1] = np.nan
    sample.grid_from_image[:, :2, 2] = -3.5
    write_sample(tmp_path / "a.npz", sample)
    np.testing.assert_array_equal(read_sample(tmp_path / "a.npz").world_from_camera, sample.world_from_camera)


def write_pickles_and_junk(folder) -> None:
    """Files that are no sample, one of each kind."""
    np.savez(folder / "objects.npz", format=np.array({"a": 1}, dtype=object))
    (folder / "pickle.npz").write_bytes(pickle.dumps({"frames": [0]}))
    (folder / "junk.npz").write_bytes(b"nothing of the kind" * 50)
    (folder / "empty.npz").write_bytes(b"")
    np.save(folder / "npy.npy", np.zeros(3))
    (folder / "npy.npy").rename(folder / "npy.npz")
    with ZipFile(folder / "text.npz", "w") as archive:
        for name in ("format", "frames", "world_from_camera", "grid_from_image", "local_points", "facts"):
            archive.writestr(name, "text")
    write_sample(folder / "whole.npz", a_sample())
    whole = (folder / "whole.npz").read_bytes()
    (folder / "torn.npz").write_bytes(whole[:-200])
    (folder / "flipped.npz").write_bytes(whole[:3000] + bytes(500) + whole[3500:])


@pytest.mark.parametrize("read", [read_sample, read_facts])
@pytest.mark.parametrize("name", ["objects", "pickle", "junk", "empty", "npy", "text", "torn", "flipped", "absent"])
def test_what_is_no_npz_of_arrays_is_refused_without_a_word_of_loading_it(tmp_path, name, read):
    write_pickles_and_junk(tmp_path)
    if (name, read) == ("flipped", read_facts):
        assert read(tmp_path / "flipped.npz") == a_sample().facts  # the damage is elsewhere
        return
    with pytest.raises(InputError, match=name) as raised:
        read(tmp_path / f"{name}.npz")
    assert "allow_pickle" not in str(raised.value) and "unsafe" not in str(raised.value)


def test_facts_that_are_no_object_are_not_read(tmp_path):
    np.savez(tmp_path / "list.npz", facts=np.array("[1]"))
    np.savez(tmp_path / "none.npz", frames=np.arange(3))
    for name in ("list", "none"):
        with pytest.raises(InputError, match="no JSON object"):
            read_facts(tmp_path / f"{name}.npz")


def test_facts_are_plain_json(tmp_path):
    write_sample(tmp_path / "a.npz", a_sample())
    assert json.loads(str(arrays_of(tmp_path / "a.npz")["facts"])) == {"method": "exact", "seconds": 0.5}
