"""The table of benchmarks: every row finds its sequences in the exact formats, and says what is not there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_on_disk import HELD_OUT_CLIPS, LARGE_FRAMES, LEARNT_CLIP, marker_from_camera, path, write_evaluation

from flow3r.data.datasets.bonn import BONN
from flow3r.data.datasets.nrgbd import NRGBD
from flow3r.data.frame import Sequence
from flow3r.data.pack import pack
from flow3r.errors import InputError
from flow3r.eval.benchmarks import BENCHMARKS, find_benchmark
from flow3r.eval.benchmarks.benchmark import Part
from flow3r.eval.benchmarks.manifests import check_manifest, committed_manifest, make_manifest
from flow3r.eval.benchmarks.paper_rows import PAPER_ROWS
from flow3r.eval.benchmarks.samplings import EveryNth, RandomFrames, Strides
from flow3r.metrics.points import FLOW3R, PI3

SINGLE = [name for name, row in BENCHMARKS.items() if row.single_images]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_draws_frames_with_the_labels_that_its_measures_need(root: Path, name: str):
    benchmark = find_benchmark(name)
    selection = benchmark.select(root)
    manifest = make_manifest(benchmark, selection.sequences)
    assert manifest.draws and not manifest.skipped
    assert len(selection.sequences) == 2 or benchmark.single_images
    draw = manifest.draws[0]
    sequence = selection.sequences[draw.sequence]
    assert isinstance(sequence, Sequence) and sequence.name == draw.sequence
    frames = list(sequence.frames(draw.frames))
    assert len(frames) == (8 if benchmark.profile == "flow3r" else len(draw.frames))
    needs = {"pose": ("world_from_camera",), "depth": ("depth",), "points": ("depth", "intrinsics")}
    for measure in set(benchmark.measures) & set(needs):
        assert all(getattr(frame, label) is not None for frame in frames for label in needs[measure])
    if benchmark.measures != ("pose",) and "flow" not in benchmark.measures:
        known = frames[0].depth[frames[0].depth > 0]
        assert known.size > 100 and known.max() < (benchmark.farthest or 100)


def test_the_table_holds_the_papers_datasets_under_their_printed_names(repository: Path):
    tables = json.loads((repository / "flow3r/eval/tables/paper_tables.json").read_text(encoding="utf-8"))
    printed = {record["dataset"] for record in tables["records"]}
    titles = {row.title for row in PAPER_ROWS}
    assert len(titles) == len(PAPER_ROWS)
    assert printed - titles == {"SpatialVID (flow) / OmniWorld (pose, geometry)"}
    assert titles - printed == {"SpatialVID", "TUM-dynamics", "Bonn (poses as tracked)"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_page_says_of_every_row_its_frames_and_how_far_depth_counts(repository: Path, name: str):
    page = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    cells, row = [cell.strip() for cell in line.split("|")[1:-1]], BENCHMARKS[name]
    frames, cap = cells[2], cells[3]
    if isinstance(row.sampling, Strides) and frames != "the same":
        assert frames.startswith(f"strides {', '.join(map(str, row.sampling.strides))}")
    elif isinstance(row.sampling, RandomFrames):
        assert frames.startswith(f"{row.sampling.count} at random")
    elif isinstance(row.sampling, EveryNth) and row.sampling.stride > 1:
        assert f"{row.sampling.stride}th" in frames
    elif row.single_images:
        assert frames == "each alone"
    if "pose" not in row.measures or "points" in row.measures:
        assert cap.startswith(("-", "MegaSaM's") if row.farthest is None else f"{row.farthest:g}")


def test_the_profiles_keep_their_point_errors_and_their_names_apart():
    for name, row in BENCHMARKS.items():
        assert name == row.name and name.startswith("pi3_") == (row.profile == "pi3")
        assert row.points == (PI3 if row.profile == "pi3" else FLOW3R)


def test_tracked_poses_of_bonn_are_those_of_another_body_on_the_same_frames(root: Path):
    camera, plate = find_benchmark("bonn"), find_benchmark("bonn_raw_gt")
    draws = [make_manifest(row, row.select(root).sequences).draws for row in (camera, plate)]
    assert draws[0] == draws[1]
    name, frames = draws[0][0].sequence, draws[0][0].frames
    ours, raw = (list(row.select(root).sequences[name].frames(frames)) for row in (camera, plate))
    assert all((a.image == b.image).all() for a, b in zip(ours, raw))
    true = path(("rgbd_bonn_balloon2", "rgbd_bonn_crowd2").index(name), LARGE_FRAMES)[list(frames)]
    tracked = true @ np.linalg.inv(marker_from_camera())
    np.testing.assert_allclose([frame.world_from_camera for frame in raw], tracked, atol=1e-5)
    relative = np.linalg.inv(ours[0].world_from_camera) @ ours[-1].world_from_camera
    np.testing.assert_allclose(relative, np.linalg.inv(true[0]) @ true[-1], atol=1e-5)


def test_a_cut_takes_its_frames_and_a_sequence_that_is_cut_already_is_left_whole(root: Path):
    assert Part(30, 110).indices(500) == range(30, 140)
    assert Part(30, 110).indices(110) == range(110)
    assert list(Part(0, 90, 3).indices(20)) == [0, 3, 6, 9, 12, 15, 18]
    bonn = find_benchmark("bonn").select(root).sequences["rgbd_bonn_balloon2"]
    (whole,) = [s for s in BONN.sequences(root / "bonn") if s.name == bonn.name]
    assert len(whole) == 40 and len(bonn) == 10
    assert [f.timestamp for f in bonn.frames([2, 5])] == [f.timestamp for f in whole.frames([32, 35])]
    assert (bonn.timestamps() == whole.timestamps()[30:]).all() and bonn.sizes([1]) == [(480, 640)]
    with pytest.raises(ValueError, match="ascend"):
        list(bonn.frames([10]))


@pytest.mark.parametrize("name", SINGLE)
def test_single_images_are_sequences_of_one_frame(root: Path, name: str):
    sequences = find_benchmark(name).select(root).sequences
    manifest = make_manifest(find_benchmark(name), sequences)
    assert {(draw.frames, draw.n) for draw in manifest.draws} == {((0,), 1)}
    assert len(manifest.draws) == len(sequences) > 2
    images = [next(sequences[draw.sequence].frames([0])).timestamp for draw in manifest.draws[:2]]
    assert images == [s.timestamps()[0] for s in list(sequences.values())[:2]] and images[0] != images[1]


def test_flow_is_that_of_clips_that_nobody_learns_from(root: Path):
    benchmark = find_benchmark("spatialvid")
    sequences = benchmark.select(root).sequences
    assert set(sequences) == {f"group_0001/{clip}/0000000" for clip in HELD_OUT_CLIPS}
    for draw in make_manifest(benchmark, sequences).draws:
        sequence = sequences[draw.sequence]
        pairs, flow = sequence.pairs_among(draw.frames), sequence.flow_among(draw.frames)
        assert flow.pairs[0].tolist() == [list(pair) for pair in pairs] and len(pairs) >= len(draw.frames) - 1
        assert flow.displacement.shape[:2] == (1, len(pairs)) and flow.covisible.max() == 1
        frames = [(draw.frames[i], draw.frames[j]) for i, j in pairs]
        assert set(frames) <= set(sequence.pairs)


def test_clips_of_the_label_store_follow_the_videos_where_these_are_there(root: Path, tmp_path: Path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "spatialvid").symlink_to(root / "labels" / "spatialvid")
    videos = tmp_path / "spatialvid" / "videos" / "group_0001"
    videos.mkdir(parents=True)
    for clip in (HELD_OUT_CLIPS[0], LEARNT_CLIP):
        (videos / f"{clip}.mp4").write_bytes(b"")
    found = find_benchmark("spatialvid").select(tmp_path).sequences
    assert set(found) == {f"group_0001/{HELD_OUT_CLIPS[0]}/0000000"}
    elsewhere = find_benchmark("spatialvid").select(tmp_path / "nowhere", root / "labels" / "spatialvid")
    assert len(elsewhere.sequences) == 2


def test_results_of_megasam_lie_where_it_or_the_preparation_of_clips_leaves_them(root: Path):
    prepared, plain = find_benchmark("kinetics700"), find_benchmark("epic_kitchens")
    assert prepared.folder(root) == root / "kinetics700_megasam" / "megasam"
    assert plain.folder(root) == root / "epic_kitchens_megasam"
    assert set(plain.select(root).sequences) == {"P01_101", "P02_102"}


def test_what_is_learnt_from_is_not_evaluated(root: Path):
    assert set(find_benchmark("co3dv2").select(root).sequences) == {"apple/110_13051_23361", "apple/189_20393_38136"}
    assert set(find_benchmark("scannetpp").select(root).sequences) == {"0a5c013435/iphone", "7b6477cb95/iphone"}
    (scene,) = {name.split("/")[0] for name in find_benchmark("omniworld").select(root).sequences}
    assert (root / "omniworld" / scene).is_dir() and len(list((root / "omniworld").iterdir())) == 2
    assert "scene0000_00" not in find_benchmark("scannet").select(root).sequences


def test_what_a_partial_dataset_lacks_is_named(root: Path, tmp_path: Path):
    sintel = find_benchmark("sintel")
    selection = sintel.select(root)
    assert set(selection.missing) == set(sintel.chosen) - {"alley_2", "ambush_6"}
    with pytest.raises(InputError, match=r"alley_2 has 16 usable frames, the manifest says 50; ambush_6 has 16"):
        check_manifest(committed_manifest("sintel"), selection.sequences)
    with pytest.raises(InputError, match=r"sintel: no such folder; sintel needs MPI-Sintel: training/"):
        sintel.select(tmp_path)
    with pytest.raises(InputError, match=r"kinetics700_megasam: .* needs MegaSaM's results on Kinetics-700-2020"):
        find_benchmark("kinetics700").select(tmp_path)
    with pytest.raises(InputError, match=r"labels/spatialvid: .* a label store of SpatialVID \(made by: flow3r label"):
        find_benchmark("spatialvid").select(tmp_path)
    with pytest.raises(InputError, match=r"none of the sequences of sintel \(cave_2\); 2 others there"):
        replace(sintel, chosen=("cave_2",)).select(root)


def test_a_packed_copy_stands_for_the_release_but_not_for_another_reading_of_it(root: Path, tmp_path: Path):
    pytest.importorskip("webdataset")
    nrgbd = find_benchmark("nrgbd")
    for folder in ("nrgbd", "bonn"):
        pack(NRGBD, NRGBD.sequences(root / "nrgbd"), tmp_path / folder)
    ours, packed = (make_manifest(nrgbd, nrgbd.select(folder).sequences) for folder in (root, tmp_path))
    assert ours == packed
    for name in ("bonn", "bonn_raw_gt"):
        with pytest.raises(InputError, match="a packed copy of nrgbd"):
            find_benchmark(name).select(tmp_path)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"no benchmark is called '7scene'; nearest are 7scenes"):
        find_benchmark("7scene")
