"""Subsets of sequences: the same for everyone, nested, apart from the test, and recognisable."""

import hashlib
import json
import random

import pytest

from flow3r.config import SourceConfig
from flow3r.data.subsets import draw_subset, read_subset, write_subset
from flow3r.errors import InputError

NAMES = [f"scene_{number:04d}" for number in range(500)]


def chosen(count: int | None, names=NAMES, *, dataset: str = "omniworld", skip: int = 0, **options) -> tuple[str, ...]:
    return draw_subset(SourceConfig(dataset, count, skip=skip), names, **options).names


def test_the_order_is_that_of_the_hashes():
    slowly = sorted(NAMES, key=lambda name: hashlib.sha256(f"7/omniworld/{name}".encode()).hexdigest())
    assert list(chosen(None, seed=7)) == slowly
    assert chosen(3)[0] != NAMES[0] and len(set(chosen(100))) == 100


def test_the_order_in_which_names_come_does_not_matter():
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert chosen(100) == chosen(100, shuffled) == chosen(100, iter(shuffled))


def test_a_smaller_subset_lies_in_a_larger_one():
    for smaller, larger in [(10, 40), (30, 100), (100, 200), (200, 500)]:
        assert chosen(smaller) == chosen(larger)[:smaller]


def test_a_name_added_to_the_dataset_moves_no_other():
    grown = chosen(None, [*NAMES, "scene_new"])
    assert tuple(name for name in grown if name != "scene_new") == chosen(None)


def test_what_is_skipped_and_what_is_taken_have_nothing_in_common():
    labelled, unlabelled = chosen(200), chosen(200, skip=200)
    assert not set(labelled) & set(unlabelled) and len(unlabelled) == 200
    assert labelled + unlabelled == chosen(400)
    assert len(chosen(None, skip=200)) == 300


def test_the_test_is_never_drawn_and_an_unknown_test_name_changes_nothing():
    test = NAMES[::5]
    drawn = chosen(400, test=test)
    assert not set(drawn) & set(test)
    assert drawn == chosen(None, [name for name in NAMES if name not in test])
    assert chosen(100, test=["not in the dataset"]) == chosen(100)


def test_seeds_and_datasets_choose_apart():
    assert chosen(100) != chosen(100, seed=1) and chosen(100) != chosen(100, dataset="spatialvid")


def test_too_few_sequences_are_counted_in_the_message():
    with pytest.raises(InputError, match=r"scannetpp: 600 .*\(300 after 300 others\).* has 450 .*\(500 in all\)"):
        chosen(300, dataset="scannetpp", skip=300, test=NAMES[:50])
    with pytest.raises(InputError, match=r"5 sequences were asked for.* has 0 "):
        chosen(5, [])


@pytest.mark.parametrize(
    ("names", "source", "message"),
    [
        (["a", "b", "a"], SourceConfig("x"), "more than once: a"),
        (["a", "b"], SourceConfig("x", -1), "sequences -1"),
        (["a", "b"], SourceConfig("x", 1, skip=-2), "skip -2"),
    ],
)
def test_names_and_numbers_that_make_no_sense_are_refused(names, source, message):
    with pytest.raises(InputError, match=message):
        draw_subset(source, names)


def test_a_list_that_was_written_reads_back_with_its_hash(tmp_path):
    subset = draw_subset(SourceConfig("spatialvid", 30, skip=10), NAMES, test=NAMES[:100], seed=3)
    path = tmp_path / "lists" / "spatialvid_30.json"
    write_subset(path, subset)
    assert read_subset(path) == subset
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record) == ["dataset", "seed", "skip", "count", "sha256", "names"]
    assert record["count"] == 30 and record["seed"] == 3 and record["skip"] == 10
    lines = "".join(f"{name}\n" for name in sorted(record["names"]))
    assert record["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_hash_is_of_the_set_not_of_its_order():
    one = draw_subset(SourceConfig("a"), NAMES)
    assert one.sha256 == draw_subset(SourceConfig("b"), NAMES, seed=5).sha256
    assert one.sha256 != draw_subset(SourceConfig("a"), NAMES[1:]).sha256


def test_a_list_that_was_changed_is_refused(tmp_path):
    path = tmp_path / "list.json"
    write_subset(path, draw_subset(SourceConfig("omniworld", 20), NAMES))
    record = json.loads(path.read_text(encoding="utf-8"))
    for names in (record["names"][1:], ["another", *record["names"][1:]]):
        path.write_text(json.dumps(record | {"names": names}), encoding="utf-8")
        with pytest.raises(InputError, match=f"{len(names)} names.*expected 20.*was changed"):
            read_subset(path)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"names": "abc"}', "\x00", "{"])
def test_a_file_that_is_no_list_is_refused(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"list\.json"):
        read_subset(path)
    with pytest.raises(InputError, match=r"missing\.json"):
        read_subset(tmp_path / "missing.json")


def test_names_of_any_script_survive(tmp_path):
    subset = draw_subset(SourceConfig("x"), ["Größe/1", "場面 2", "a\tb"])
    write_subset(tmp_path / "x.json", subset)
    assert read_subset(tmp_path / "x.json") == subset
