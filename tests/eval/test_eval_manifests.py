"""Manifests: draws come from a hash alone, files are exact, and data of another length are refused."""

import hashlib
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from flow3r.errors import InputError
from flow3r.eval.benchmarks import BENCHMARKS, find_benchmark
from flow3r.eval.benchmarks.manifests import (
    Manifest,
    check_manifest,
    committed_manifest,
    known_manifest,
    make_manifest,
    read_manifest,
    write_manifest,
)
from flow3r.eval.benchmarks.samplings import Connected, EveryNth, Lot, RandomFrames, Strides

WITH_LENGTHS = sorted(name for name, row in BENCHMARKS.items() if row.lengths)


def numbers(dataset: str, sequence: str, draw: int):
    """The rule of the manifest in other words: uniform numbers from PCG64, seeded by the first 8 bytes of SHA-256."""
    text = f"flow3r-eval-v1|{dataset}|{sequence}|{draw}"
    generator = np.random.PCG64(int(hashlib.sha256(text.encode()).hexdigest()[:16], 16))
    while True:
        yield int(generator.random_raw()) / 2**64


class Segment:
    """A sequence of which some pairs are labelled."""

    def __init__(self, length: int, pairs: tuple[tuple[int, int], ...]):
        self.length, self.pairs = length, pairs

    def __len__(self) -> int:
        return self.length


def test_draws_of_sintel_are_these_on_every_machine():
    manifest = make_manifest(find_benchmark("sintel"), {"alley_2": range(50), "ambush_6": range(20)})
    found = {(draw.sequence, draw.draw): (draw.stride, draw.frames) for draw in manifest.draws}
    assert found["alley_2", 0] == (4, (14, 18, 22, 26, 30, 34, 38, 42))
    assert found["alley_2", 3] == (1, (1, 2, 3, 4, 5, 6, 7, 8))
    for (sequence, number), drawn in found.items():
        uniform, n = numbers("sintel", sequence, number), {"alley_2": 50, "ambush_6": 20}[sequence]
        feasible = [stride for stride in (1, 2, 4, 6) if 7 * stride + 1 <= n]
        stride = feasible[int(next(uniform) * len(feasible))]
        start = int(next(uniform) * (n - 7 * stride))
        assert drawn == (stride, tuple(start + stride * k for k in range(8)))


@pytest.mark.parametrize("name", WITH_LENGTHS)
def test_a_committed_manifest_is_what_its_rule_makes_of_the_lengths_in_its_row(name: str):
    committed = committed_manifest(name)
    assert committed == known_manifest(find_benchmark(name))
    assert {draw.sequence for draw in committed.draws} == set(find_benchmark(name).lengths)


def test_only_rows_with_known_lengths_have_a_committed_manifest():
    assert {name for name in BENCHMARKS if committed_manifest(name)} == set(WITH_LENGTHS)
    assert known_manifest(find_benchmark("nrgbd")) is None


def test_a_draw_does_not_depend_on_other_sequences_or_on_their_order():
    benchmark = find_benchmark("nrgbd")
    lengths = {"kitchen": range(1500), "staircase": range(1100), "whiteroom": range(1600)}
    every = make_manifest(benchmark, lengths)
    assert make_manifest(benchmark, dict(reversed(lengths.items()))) == every
    alone = make_manifest(benchmark, {"staircase": range(1100)}, draws=2)
    assert alone.draws == tuple(draw for draw in every.draws if draw.sequence == "staircase" and draw.draw < 2)
    assert len({draw.frames for draw in every.draws}) > len(lengths)  # they do depend on their names and numbers


def test_short_sequences_get_the_largest_stride_that_fits_or_are_skipped_with_a_reason():
    benchmark = replace(find_benchmark("nrgbd"), sampling=Strides((20, 40)))
    manifest = make_manifest(benchmark, {"a": range(100), "b": range(8), "c": range(7)})
    assert {draw.sequence: draw.stride for draw in manifest.draws} == {"a": 14, "b": 1}
    assert all(draw.frames[-1] < draw.n for draw in manifest.draws)
    assert manifest.skipped == {"c": "7 frames; at least 8 are needed"}


def test_sequences_of_fewer_frames_than_a_sample_are_taken_whole_where_that_is_allowed():
    allowed, strict = Strides((1, 2, 4), fewest=2), Strides((1, 2, 4))
    benchmark = replace(find_benchmark("nrgbd"), sampling=allowed)
    manifest = make_manifest(benchmark, {"long": range(40), "few": range(5), "pair": range(2), "one": range(1)}, 3)
    frames = {(draw.sequence, draw.draw): (draw.stride, draw.frames) for draw in manifest.draws}
    assert manifest.skipped == {"one": "1 frames; at least 2 are needed"}
    assert all(frames["few", k] == (1, (0, 1, 2, 3, 4)) and frames["pair", k] == (1, (0, 1)) for k in range(3))
    for k in range(3):  # nothing changes for those that are long enough
        assert frames["long", k] == strict.frames_of(40, Lot(benchmark.dataset, "long", k))


def test_strides_and_starts_are_drawn_evenly():
    sampling = Strides((1, 3))
    drawn = [sampling.frames_of(24, Lot("d", "s", k)) for k in range(3000)]
    strides = np.array([stride for stride, _ in drawn])
    assert abs((strides == 1).mean() - 0.5) < 0.04
    starts = np.bincount([frames[0] for stride, frames in drawn if stride == 1], minlength=17)
    assert len(starts) == 17 and (np.abs(starts / starts.sum() - 1 / 17) < 0.025).all()
    assert {frames[0] for stride, frames in drawn if stride == 3} == {0, 1, 2}


def test_random_frames_are_different_ordered_and_all_sets_equally_likely():
    drawn = [RandomFrames(2, least=4).frames_of(4, Lot("d", "s", k))[1] for k in range(3000)]
    counts = {pair: drawn.count(pair) / len(drawn) for pair in combinations(range(4), 2)}
    assert sum(counts.values()) == pytest.approx(1) and max(abs(c - 1 / 6) for c in counts.values()) < 0.03


def test_every_nth_frame_is_drawn_once():
    benchmark = find_benchmark("pi3_nrgbd_sparse")
    manifest = make_manifest(benchmark, {"whiteroom": range(1600), "thin_geometry": range(300)})
    frames = {draw.sequence: draw.frames for draw in manifest.draws}
    assert frames == {"whiteroom": (0, 500, 1000, 1500), "thin_geometry": (0,)} and len(manifest.draws) == 2
    assert EveryNth(1).frames_of(3, Lot("d", "s", 0)) == (1, (0, 1, 2))


def test_frames_for_flow_are_connected_by_labels():
    pairs = ((0, 2), (2, 1), (2, 5), (5, 7), (3, 4))
    for k in range(20):
        _, frames = Connected(4).frames_of(9, Lot("d", "s", k), pairs)
        assert frames in ((3, 4), *combinations((0, 1, 2, 5, 7), 4))
        reached = {frames[0]}
        for _ in frames:
            reached |= {b for pair in pairs for a, b in (pair, pair[::-1]) if a in reached and b in frames}
        assert reached == set(frames)
    manifest = make_manifest(find_benchmark("spatialvid"), {"a/0": Segment(9, pairs), "b/0": Segment(9, ())})
    assert {draw.sequence for draw in manifest.draws} == {"a/0"} and "labelled" in manifest.skipped["b/0"]


def test_a_manifest_comes_back_from_its_file_and_its_hash_is_that_of_the_file(tmp_path: Path):
    manifest = make_manifest(find_benchmark("bonn"), {"rgbd_bonn_crowd2": range(110), "é": range(20)})
    write_manifest(tmp_path / "bonn.jsonl", manifest)
    read = read_manifest(tmp_path / "bonn.jsonl")
    assert read == manifest and read.benchmark == "bonn"
    assert read.sha256 == hashlib.sha256((tmp_path / "bonn.jsonl").read_bytes()).hexdigest()
    assert [draw.draw for draw in read.headline().draws] == [0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": [0, 0, 1]}, "do not ascend within 0..49"),
        ({"frames": [43, 50]}, "do not ascend"),
        ({"frames": [1.5]}, "another type"),
        ({"draw": "0"}, "draw of another type"),
        ({"extra": 1}, "expected the keys"),
    ],
)
def test_a_line_that_is_no_draw_is_named(tmp_path: Path, change: dict, said: str):
    lines = committed_manifest("sintel").text.splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    (tmp_path / "sintel.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"sintel.jsonl: line 2 is no draw.*{said}"):
        read_manifest(tmp_path / "sintel.jsonl")


def test_draws_twice_or_out_of_order_and_files_that_are_none_are_refused(tmp_path: Path):
    file = tmp_path / "sintel.jsonl"
    lines = committed_manifest("sintel").text.splitlines()
    for content in ("\n".join([*lines, lines[-1]]), "\n".join(lines[::-1]), ""):
        file.write_text(content)
        with pytest.raises(InputError, match="sorted by sequence"):
            read_manifest(file)
    file.write_text("{")
    with pytest.raises(InputError, match="line 1"):
        read_manifest(file)
    with pytest.raises(InputError, match=r"nowhere\.jsonl: not a manifest"):
        read_manifest(tmp_path / "nowhere.jsonl")


def test_data_of_another_length_are_refused_by_name_and_missing_ones_are_listed():
    manifest = make_manifest(find_benchmark("sintel"), {"alley_2": range(50), "ambush_6": range(20), "b": range(30)})
    assert check_manifest(manifest, {"alley_2": range(50), "ambush_6": range(20)}) == ("b",)
    with pytest.raises(InputError, match=r"sintel: .*ambush_6 has 19 usable frames, the manifest says 20"):
        check_manifest(manifest, {"alley_2": range(50), "ambush_6": range(19)})
    assert check_manifest(Manifest("sintel", ()), {}) == ()
