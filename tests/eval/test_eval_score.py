"""Stage 2: samples become rows, perfect for the truth, the worst with a reason for whatever is wrong, and resumed."""

import itertools
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_room import intrinsics_of, render, walk

from flow3r.data.frame import Frame
from flow3r.data.labels import LabelStore, Segment, SegmentInfo
from flow3r.data.transforms import fit_frame
from flow3r.errors import InputError
from flow3r.eval.benchmarks.benchmark import Benchmark
from flow3r.eval.benchmarks.labelled_segments import labelled_segments
from flow3r.eval.benchmarks.manifests import Draw, Manifest
from flow3r.eval.benchmarks.samplings import Strides
from flow3r.eval.frames import labels_on_grid
from flow3r.eval.predict import failure_path, sample_path
from flow3r.eval.report import COLUMNS
from flow3r.eval.samples import Sample, read_sample, write_sample
from flow3r.eval.score import Task, protocol_of, score
from flow3r.eval.tables.collect import read_rows, results_of
from flow3r.eval.truth import worst_of_any_truth
from flow3r.files import write_json
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.metrics.points import PI3
from flow3r.types import Flow

SIZE, GRID = (60, 84), (42, 42)  # the grid crops both sides of the image
ROOMS = Benchmark("rooms", "Rooms", "sintel", Strides((1, 2), 3), ("pose", "points", "depth"))
DRAWS = tuple(Draw("sintel", name, k, 2 - k, (k, 2, 4 - k), 6) for name in ("a", "b/c") for k in (0, 1))
MANIFEST = Manifest("rooms", DRAWS)


class Room:
    """A walk through the room as a sequence of posed frames, far from the world's origin."""

    def __init__(self, name: str, count: int = 6):
        self.name, self.poses = name, walk(count)
        self.poses[:, 1, 3] += 0.02 * np.arange(count) ** 2  # not along a line
        self.offset = np.zeros((4, 4))
        self.offset[:3, 3] = 1e4

    def __len__(self):
        return len(self.poses)

    def timestamps(self):
        return np.arange(len(self), dtype=np.float64)

    def frames(self, indices):
        for index in indices:
            intrinsics = intrinsics_of(70.0, SIZE)
            depth, _, image = render(self.poses[index], intrinsics, SIZE)
            depth[:9] = 0  # sky
            yield Frame(
                image, float(index), f"{index}", depth.astype(np.float32), intrinsics, self.poses[index] + self.offset
            )


SEQUENCES = {name: Room(name) for name in ("a", "b/c")}


def oracle(draw: Draw, grid: tuple[int, int] = GRID, scale: float = 0.2) -> Sample:
    """The truth in another unit, NaN where it is unknown."""
    frames = list(SEQUENCES[draw.sequence].frames(draw.frames))
    grids = np.stack([fit_frame(frame.image, grid).model_from_original for frame in frames])
    labels = labels_on_grid(frames, grids, grid)
    local = scale * unproject(labels.depth.double(), labels.intrinsics)[0]
    poses = labels.world_from_camera[0].clone()
    poses[:, :3, 3] *= scale
    return Sample(
        frames=np.array(draw.frames),
        world_from_camera=poses.numpy(),
        grid_from_image=grids,
        local_points=torch.where(labels.depth[0, ..., None] > 0, local, torch.nan).float().numpy(),
    )


def write_oracle(folder: Path, draws=DRAWS, spoil=lambda sample: sample, **options) -> Path:
    for draw in draws:
        write_sample(sample_path(folder, draw), spoil(oracle(draw, **options)))
    return folder


def run(
    tmp_path: Path, samples: Path, name: str = "scores.jsonl", manifest: Manifest = MANIFEST, **options
) -> list[dict]:
    options = {"sequences": SEQUENCES, "benchmark": ROOMS} | options
    return list(score(options.pop("benchmark"), manifest, tmp_path, samples, tmp_path / name, **options))


def sorted_lines(path: Path) -> bytes:
    return b"".join(sorted(path.read_bytes().splitlines(keepends=True)))


@pytest.mark.parametrize("grid", [GRID, SIZE, (28, 56)])
@pytest.mark.parametrize("profile", ["flow3r", "pi3"])
def test_the_truth_is_perfect_through_the_files_on_any_grid(tmp_path, grid, profile):
    draws = DRAWS[:1]
    samples = write_oracle(tmp_path / "samples", draws, grid=grid)
    (row,) = run(tmp_path, samples, manifest=Manifest("rooms", draws), profile=profile)
    assert row["failed"] == "" and row["notes"] == {} and not row["degenerate"] and row["profile"] == profile
    for name, value in row["values"].items():
        if name.startswith(("nc", "f@")):
            assert value == pytest.approx(1.0, abs=2e-2 if name.startswith("nc") else 0), name
        elif not name.endswith("_metric"):  # the oracle's own unit is no metre
            assert value == pytest.approx(0.0 if COLUMNS[name].better == "lower" else 100.0, abs=1e-4), name
    assert row["values"]["abs_rel_metric"] == pytest.approx(0.8) and row["facts"]["scale_ratio"] == pytest.approx(1.0)
    assert ("nc" in row["values"]) == (profile == "pi3") and row["facts"]["points"] == row["facts"]["depth_pixels"]


def test_rows_are_what_the_report_reads(tmp_path):
    rows = run(tmp_path, write_oracle(tmp_path / "samples"))
    assert len(rows) == 4 and read_rows(tmp_path / "scores.jsonl") == rows
    results = results_of("oracle", "flow3r", rows, MANIFEST)
    assert results.complete and not results.failures and results.headline.mean("auc@30") == 100.0


def test_world_points_alone_score_as_local_points_do(tmp_path):
    local = run(tmp_path, write_oracle(tmp_path / "local"), "local.jsonl")

    def in_the_world(sample: Sample) -> Sample:
        points = transform_maps(
            torch.from_numpy(sample.world_from_camera), torch.from_numpy(sample.local_points).double()
        )
        return replace(sample, local_points=None, world_points=points.numpy())

    world = run(tmp_path, write_oracle(tmp_path / "world", spoil=in_the_world), "world.jsonl")
    for one, other in zip(local, world):
        assert one["values"] == pytest.approx(other["values"], abs=1e-4)


def test_true_depth_beyond_the_farthest_is_not_scored(tmp_path):
    samples = write_oracle(tmp_path / "samples", DRAWS[:1])
    one = Manifest("rooms", DRAWS[:1])
    (near,) = run(tmp_path, samples, "near.jsonl", one, benchmark=replace(ROOMS, farthest=4.0))
    (all_of_it,) = run(tmp_path, samples, "all.jsonl", one)
    assert 0 < near["facts"]["depth_pixels"] < all_of_it["facts"]["depth_pixels"]
    assert near["facts"]["s"] < all_of_it["facts"]["s"]


def broken(tmp_path: Path, draw: Draw, change) -> dict:
    """The row of a sample that was changed, or replaced."""
    path = sample_path(tmp_path / "samples", draw)
    write_oracle(tmp_path / "samples", (draw,))
    change(path)
    (row,) = run(tmp_path, tmp_path / "samples", manifest=Manifest("rooms", (draw,)))
    return row


def rewritten(**changes):
    return lambda path: write_sample(path, replace(read_sample(path), **changes))


def fewer_frames(path: Path) -> None:
    """Leave out a frame, and keep its camera."""
    with np.load(path) as archive:
        arrays = dict(archive)
    np.savez(path, **arrays | {"frames": arrays["frames"][:2]})


CHANGES = {
    "there is no sample": Path.unlink,
    "not a readable": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "its frames are others": rewritten(frames=np.array([0, 2, 5])),
    "its frames are in another order": rewritten(frames=np.array([2, 0, 4])),
    r"expected \(2, 4, 4\)": fewer_frames,
    "no crop and resize": rewritten(grid_from_image=np.tile(np.diag([-1.0, 1.0, 1.0]), (3, 1, 1))),
    "no predicted camera is finite": rewritten(
        world_from_camera=np.full((3, 4, 4), np.nan), local_points=np.full((3, *GRID, 3), np.nan)
    ),
    "points failed: the points lie on one spot": rewritten(
        local_points=np.zeros((3, *GRID, 3)), world_from_camera=np.tile(np.eye(4), (3, 1, 1))
    ),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_is_wrong_with_a_sample_is_said_and_scored_as_the_worst(tmp_path, said):
    ordinary = broken(tmp_path / "ordinary", DRAWS[0], lambda path: None)
    row = broken(tmp_path / "broken", DRAWS[0], CHANGES[said])
    assert re.search(said, row["failed"]), row["failed"]
    assert str(tmp_path) not in row["failed"]
    assert set(row["values"]) == set(ordinary["values"])
    assert row["values"]["mse"] == row["values"]["chamfer"] == 1.0 and row["values"]["f@5"] == 0.0
    assert row["values"]["rta@30"] == row["values"]["delta"] == 0.0


def test_what_a_method_raised_is_the_reason(tmp_path):
    path = sample_path(tmp_path / "samples", DRAWS[0])
    path.parent.mkdir(parents=True)
    write_json(failure_path(path), {"reason": "RuntimeError: out of luck"})
    (row,) = run(tmp_path, tmp_path / "samples", manifest=Manifest("rooms", DRAWS[:1]))
    assert row["failed"] == "the method gave no sample: RuntimeError: out of luck" and row["sample_sha256"]


def test_a_part_of_a_dataset_fails_what_it_lacks(tmp_path):
    samples = write_oracle(tmp_path / "samples")
    ordinary = run(tmp_path, samples, "whole.jsonl")[0]["values"]
    rows = run(tmp_path, samples, sequences={"a": Room("a", 5)})
    assert "5 usable frames, the manifest says 6" in rows[0]["failed"] and "lacks the sequence" in rows[2]["failed"]
    for row in rows:
        # What has a unit has no worst value where the truth is unknown.
        assert set(row["values"]) < set(ordinary) and row["values"]["rra@30"] == row["values"]["f@2"] == 0.0
        assert row["values"]["mse"] == 1.0 and row["values"]["rpe_rotation"] == 180.0
        assert not {"ate", "rpe_translation", "depth_rmse", "mse_sq"} & set(row["values"])
    bare = Room("a")
    bare.frames = lambda indices: (replace(frame, depth=None) for frame in Room("a").frames(indices))
    (row, *_) = run(tmp_path, samples, "bare.jsonl", sequences={"a": bare})
    assert row["failed"] == "no truth: its frames have no depth"


def test_where_labels_vary_each_sequence_is_measured_as_far_as_its_own_allow(tmp_path):
    varied, samples = replace(ROOMS, labels_vary=True), write_oracle(tmp_path / "samples")
    cameras_alone = Room("b/c")
    cameras_alone.frames = lambda indices: (replace(f, depth=None) for f in Room("b/c").frames(indices))
    sequences = {"a": Room("a"), "b/c": cameras_alone}
    whole, posed = run(tmp_path, samples, benchmark=varied, sequences=sequences)[::2]
    assert whole["values"] == run(tmp_path, samples, "strict.jsonl")[0]["values"] and not whole["notes"]
    assert not posed["failed"] and posed["values"]["rra@5"] == posed["values"]["rta@5"] == 100.0
    assert posed["values"]["ate"] < 1e-6
    assert {COLUMNS[name].group for name in posed["values"]} == {"pose"}
    assert posed["notes"] == {"no depth: points not measured": 1, "no depth: depth not measured": 1}

    alone = Manifest("rooms", DRAWS[2:3])
    (lost,) = run(tmp_path, tmp_path / "none", "lost.jsonl", alone, benchmark=varied, sequences=sequences)
    assert lost["failed"] == "there is no sample" and lost["values"]["rra@30"] == 0.0
    assert {COLUMNS[name].group for name in lost["values"]} == {"pose"}
    assert set(lost["notes"]) >= set(posed["notes"])

    blank = Room("b/c")
    blank.frames = lambda indices: (replace(f, depth=None, world_from_camera=None) for f in Room("b/c").frames(indices))
    row = run(tmp_path, samples, "blank.jsonl", benchmark=varied, sequences={"b/c": blank})[2]
    assert row["failed"] == "no truth: its frames have no depth, world_from_camera"


def test_the_worst_values_do_not_depend_on_the_truth():
    for profile, count in itertools.product(("flow3r", "pi3"), (2, 3, 4, 8, 10)):
        benchmark = replace(ROOMS, measures=("pose", "points", "normals", "depth", "flow"))
        values = worst_of_any_truth(protocol_of(benchmark, profile), count)
        assert {"rra@5", "f@2", "auc@30", "delta", "within_5px", "aepe_of_diagonal", "dropped"} <= set(values)
        assert not {"ate", "ate_of_s", "rpe_translation", "aepe", "sq_rel", "rmse"} & set(values)
        assert ("mse" in values) == (profile == "flow3r")  # metres there
        assert all(math.isfinite(value) for value in values.values())


def test_a_truth_that_could_not_be_read_is_looked_for_again(tmp_path):
    samples = write_oracle(tmp_path / "samples")
    part = {"a": SEQUENCES["a"]}
    assert sum(row["failed"].startswith("no truth") for row in run(tmp_path, samples, sequences=part)) == 2
    assert len(run(tmp_path, samples, sequences=part)) == 2  # those again, and only those
    found = run(tmp_path, samples)
    assert {row["sequence"] for row in found} == {"b/c"} and not any(row["failed"] for row in found)
    assert sorted_lines(tmp_path / "scores.jsonl").count(b"\n") == len(DRAWS) and run(tmp_path, samples) == []


def test_another_pseudo_truth_is_scored_against_again(tmp_path):
    pseudo, results = replace(ROOMS, pseudo="megasam"), tmp_path / "sintel_megasam" / "a.npz"
    samples = write_oracle(tmp_path / "samples")
    results.parent.mkdir()
    for content in (b"one", b"another"):
        results.write_bytes(content)
        assert len(run(tmp_path, samples, benchmark=pseudo)) == len(DRAWS)
        assert run(tmp_path, samples, benchmark=pseudo) == []
    assert (tmp_path / "scores.jsonl").read_bytes().count(b"\n") == len(DRAWS)


def test_a_sample_made_for_another_sequence_is_refused_where_it_says_so(tmp_path):
    samples = write_oracle(tmp_path / "samples", DRAWS[:1], spoil=lambda s: replace(s, facts={"row": "other"}))
    assert "another sequence" in run(tmp_path, samples)[0]["failed"]


@pytest.mark.parametrize("cut", [1, 40, 700])
def test_a_killed_run_that_goes_on_has_the_rows_of_one_that_was_not(tmp_path, cut):
    samples = write_oracle(
        tmp_path / "samples", spoil=lambda s: replace(s, local_points=s.local_points * np.abs(s.local_points) ** 0.1)
    )
    run(tmp_path, samples, "whole.jsonl")
    partly = score(ROOMS, MANIFEST, tmp_path, samples, tmp_path / "part.jsonl", sequences=SEQUENCES)
    kept = [next(partly), next(partly)]
    partly.close()
    content = (tmp_path / "part.jsonl").read_bytes()
    (tmp_path / "part.jsonl").write_bytes(content[:-cut])  # of the second row
    again = run(tmp_path, samples, "part.jsonl")
    assert len(again) == 3 and kept[0] not in again and kept[1] in again
    assert sorted_lines(tmp_path / "part.jsonl") == sorted_lines(tmp_path / "whole.jsonl")
    assert run(tmp_path, samples, "part.jsonl") == []


def test_a_score_file_that_is_damaged_within_is_named_and_left_alone(tmp_path):
    (tmp_path / "scores.jsonl").write_bytes(b'{"sequence": "a\n{}\n')
    with pytest.raises(InputError, match=r"scores.jsonl: line 1 is no JSON"):
        run(tmp_path, write_oracle(tmp_path / "samples", DRAWS[:1]))
    assert (tmp_path / "scores.jsonl").read_bytes() == b'{"sequence": "a\n{}\n'


def test_rows_follow_their_samples_manifest_and_definition(tmp_path, monkeypatch):
    samples = write_oracle(tmp_path / "samples")
    run(tmp_path, samples)
    write_oracle(samples, DRAWS[:1], scale=0.3)
    (row,) = run(tmp_path, samples)
    assert (row["sequence"], row["draw"]) == ("a", 0) and len(read_rows(tmp_path / "scores.jsonl")) == 4
    assert len(run(tmp_path, samples, manifest=MANIFEST.headline())) == 2
    assert len(read_rows(tmp_path / "scores.jsonl")) == 2
    monkeypatch.setattr("flow3r.eval.score.DEFINITION", 99)
    assert len(run(tmp_path, samples, manifest=MANIFEST.headline())) == 2
    assert {row["definition"] for row in read_rows(tmp_path / "scores.jsonl")} == {99}
    assert len(run(tmp_path, samples, manifest=MANIFEST.headline(), budget=500)) == 2


def test_rows_do_not_depend_on_the_number_of_threads(tmp_path):
    samples = write_oracle(
        tmp_path / "samples", spoil=lambda s: replace(s, local_points=s.local_points * np.abs(s.local_points) ** 0.1)
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run(tmp_path, samples, "two.jsonl")
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        run(tmp_path, samples, "one.jsonl")
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_task_travels_to_another_process():
    task = Task("sintel", Path("root"), DRAWS[0], Path("0.npz"), "ab", "cd", "", "", "pi3", None)
    assert pickle.loads(pickle.dumps(task)) == task and task.key == ("a", 0, "ab", "cd", "", "pi3", None, 1)


def labelled(tmp_path: Path) -> tuple[dict, Flow]:
    """A segment with flow of two pairs in a label store, and that flow."""
    pairs, generator = ((0, 1), (2, 0)), torch.Generator().manual_seed(0)
    info = SegmentInfo(
        source="clip",
        source_sha256="ab" * 32,
        shot=(0, 3),
        indices=(0, 1, 2),
        timestamps=(0.0, 0.1, 0.2),
        names=("0", "1", "2"),
        original_sizes=(SIZE,) * 3,
        size=SIZE,
        model_from_original=(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * 3,
        pairs=pairs,
        covisible_share=(1.0, 1.0),
        median_flow=(3.0, 3.0),
        refusals=(),
    )
    displacement = 3 * torch.randn(1, 2, *SIZE, 2, generator=generator)
    flow = Flow(torch.tensor([pairs]), displacement, torch.ones(1, 2, *SIZE))
    images = np.zeros((3, *SIZE, 3), dtype=np.uint8)
    store = LabelStore(tmp_path / "store", {"teacher": "exact", "parameters": {}})
    store.write(Segment(info, images, flow))
    (segment,) = labelled_segments(tmp_path / "store")
    return {segment.name: segment}, segment.flow_among((0, 1, 2))


def test_flow_of_labelled_pairs_is_scored_pair_by_pair_in_any_order(tmp_path):
    sequences, flow = labelled(tmp_path)
    (name,) = sequences
    clips = Benchmark("clips", "Clips", "spatialvid", Strides((1,), 3), ("flow",), pseudo="labels")
    draw = Draw("spatialvid", name, 0, 0, (0, 1, 2), 3)
    sample = Sample(
        frames=np.arange(3),
        world_from_camera=walk(3),
        grid_from_image=np.tile(np.eye(3), (3, 1, 1)),
        local_points=np.ones((3, *SIZE, 3), dtype=np.float32),
        pairs=flow.pairs[0].numpy()[::-1].copy(),
        flow=flow.displacement[0].numpy()[::-1].copy(),
    )

    def row(sample: Sample, number: int) -> dict:
        write_sample(sample_path(tmp_path / f"samples{number}", draw), sample)
        options = {"sequences": sequences, "benchmark": clips, "manifest": Manifest("clips", (draw,))}
        return run(tmp_path, tmp_path / f"samples{number}", f"{number}.jsonl", **options)[0]

    perfect = row(sample, 0)
    assert perfect["failed"] == "" and perfect["values"]["aepe"] < 0.01 and perfect["values"]["within_1px"] == 100.0
    assert perfect["facts"] == {"flow_pairs": 2, "height": 60, "width": 84}
    half = row(replace(sample, pairs=sample.pairs[:1], flow=sample.flow[:1]), 1)
    assert half["values"]["within_5px"] == 50.0 and half["failed"] == "" and half["notes"]
    none = row(replace(sample, pairs=None, flow=None), 2)
    assert "no flow" in none["failed"] and none["values"]["aepe_of_diagonal"] == pytest.approx(100.0)
    assert set(none["values"]) == set(perfect["values"])
    other = row(replace(sample, pairs=np.array([[0, 2]]), flow=sample.flow[:1]), 3)
    assert "labelled pair" in other["failed"]


def test_another_profile_changes_the_definition_of_points_alone():
    assert protocol_of(ROOMS, "flow3r").points == ROOMS.points and protocol_of(ROOMS, "pi3").points == PI3
    assert protocol_of(ROOMS, "pi3").groups == ROOMS.measures
