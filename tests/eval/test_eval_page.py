"""The page shows every method on every chosen sequence, with pictures that are there, and is made the same twice."""

from html.parser import HTMLParser

import pytest
from PIL import Image
from scored_rows import manifest, row, scored
from test_eval_pictures import shown

from flow3r.errors import InputError
from flow3r.eval.page import chosen_sequences, pictures, write_page
from flow3r.eval.page.page_tables import measures_table
from flow3r.eval.page.pictures import Shown
from flow3r.eval.tables.collect import results_of
from flow3r.eval.tables.typeset import Grid, Sheet

VOID = {"meta", "img", "br", "line", "polyline", "circle"}
HOSTILE = "a/<b>&'\" ü"


class Page(HTMLParser):
    """Text, references and headings of a page; fails on tags that do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.sources, self.text, self.figures = [], [], "", 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.sources += [found[key] for key in ("src", "href") if key in found]
        self.figures += tag == "figure"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def results(method, benchmark="rooms", values=None, failed=(), sequences=5, profile="flow3r", names=None):
    """A method whose MSE grows with the number of the sequence."""
    of = manifest(benchmark, sequences, draws=2)
    rows = [
        row(d, of, {"mse": 0.01 * int(d.sequence[1:]) + 0.001, "auc@30": 50.0, "rta@10": 3.0} | (values or {}),
            failed="out of <memory>" if d.sequence in failed else "", profile=profile)
        for d in of.draws
    ]  # fmt: skip
    return results_of(method, profile, rows, of)


def show(results, measured):
    if results.method == "lost":
        raise InputError("a.npz: is not <there>")
    one = shown(count=len(measured.frames))
    return Shown(one.frames) if measured.failed else one


@pytest.fixture(scope="module", autouse=True)
def _small_clouds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "CLOUD_SIZE", (36, 48))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    both = [results("ours", failed=("s3",)), results("other"), results("lost"), results("ours", profile="pi3")]
    further = Sheet("Table <1>", (Grid("all", ("", "MSE"), (("a & b", "1"), None, ("c", "2"))),), ("a note",))
    path = write_page(both, folder, show, sheets=[further])
    return folder, path.read_text(encoding="utf-8")


def test_the_page_is_whole_and_every_picture_that_it_refers_to_is_there(written):
    folder, text = written
    page = Page(text)
    files = [source for source in page.sources if not source.startswith("#")]
    assert sorted(files) == sorted(str(p.relative_to(folder)) for p in (folder / "pictures").iterdir())
    for source in files:
        with Image.open(folder / source) as image:
            assert max(image.convert("L").getextrema()) > min(image.convert("L").getextrema())
    for anchor in (source for source in page.sources if source.startswith("#")):
        assert f'id="{anchor[1:]}"' in text
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "pictures"]


def test_nothing_comes_from_elsewhere(written):
    text = written[1].replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text and "//" not in text and "<script" not in text


def test_every_method_and_every_chosen_sequence_is_shown(written):
    page = Page(written[1])
    for said in ("ours", "other", "lost", "worst MSE / s of ours", "median MSE", "best MSE", "ours failed",
                 "ours: failed: out of <memory>", "lost: a.npz: is not <there>", "profile flow3r", "profile pi3",
                 "Table <1>", "a & b", "a note", "5 of 5"):  # fmt: skip
        assert said in page.text, said
    for sequence in ("s0", "s1", "s3", "s4"):  # s3 is not in the order of the first method, which failed on it
        assert written[1].count(f"<h3>{sequence} ") == 1
    # Frames, trajectories, true maps and cloud, and maps and cloud of each method that has them; of s3 "other" alone.
    assert page.figures == 3 * (1 + 1 + 2 + 2 * 2) + (1 + 1 + 2 + 2)


def test_made_twice_the_bytes_are_the_same(written, tmp_path):
    folder, _ = written
    both = [results("ours", failed=("s3",)), results("other"), results("lost"), results("ours", profile="pi3")]
    further = Sheet("Table <1>", (Grid("all", ("", "MSE"), (("a & b", "1"), None, ("c", "2"))),), ("a note",))
    for _ in range(2):  # into an empty folder, and over what is there
        write_page(both, tmp_path, show, sheets=[further])
        ours = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        assert ours == {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_worst_median_and_best_are_chosen_then_failures():
    chosen = chosen_sequences([results("ours"), results("other", failed=("s1", "s4"))])
    assert [(c.sequence, len(c.reasons)) for c in chosen] == [("s4", 2), ("s2", 1), ("s0", 1), ("s1", 1)]
    many = chosen_sequences([results("ours", sequences=9, failed=[f"s{k}" for k in range(9)])])
    assert [c.sequence for c in many] == ["s0", "s1", "s2"]
    alone = chosen_sequences([results("ours", sequences=1)])
    assert [(c.sequence, len(c.reasons)) for c in alone] == [("s0", 3)]


def test_without_points_the_pose_chooses_and_more_is_better():
    posed = [scored("ours", "posed", {"auc@30": 50.0}, sequences=3)]
    assert [c.sequence for c in chosen_sequences(posed)] == ["s0", "s1", "s2"]


def test_a_method_that_was_not_run_on_a_sequence_is_said_to_be_missing(tmp_path):
    of = manifest("rooms", 1, draws=1)
    whole, empty = (
        results_of("ours", "flow3r", [row(of.draws[0], of, {"mse": 0.1})], of),
        results_of("other", "flow3r", [], of),
    )
    page = Page(write_page([whole, empty], tmp_path, show).read_text())
    assert "other: not run" in page.text and "0 of 1" in page.text


def test_the_best_is_marked_among_means_of_the_same_sequences_and_fewer_are_counted():
    of = manifest("rooms", 3, draws=1)

    def measured(method, *values):
        return results_of(method, "flow3r", [row(d, of, v) for d, v in zip(of.draws, values)], of)

    posed = {"auc@30": 40.0}
    ours = measured("ours", {"auc@30": 50.0, "mse": 0.2}, posed, posed)
    other = measured("other", {"auc@30": 60.0, "mse": 0.1}, posed, posed)
    alike = measures_table([ours, other])
    assert '<td class="best">46.7</td>' in alike and '<td class="best">0.1000</td>' in alike
    assert "MSE / s ↓ <small>n = 1</small>" in alike and "AUC@30° % ↑</td>" in alike
    partial = measures_table([ours, measured("partial", {"auc@30": 90.0}, {"auc@30": 90.0})])
    assert "best" not in partial
    assert "MSE / s ↓ <small>n = 1, 0</small>" in partial and "2 of 3" in partial


def test_points_that_a_method_does_not_give_are_counted_beside_those_that_it_does():
    whole = results("whole", values={"dropped": 0.0})
    alone, beside = measures_table([whole]), measures_table([whole, results("partial", values={"dropped": 60.0})])
    assert "points dropped" in alone.partition("<details>")[2] and "points dropped" in beside.partition("<details>")[0]


def test_hostile_names_are_text(tmp_path):
    of = manifest("rooms", 1, draws=1)
    draw = type(of.draws[0])(**{**vars(of.draws[0]), "sequence": HOSTILE})
    named = type(of)("rooms", (draw,))
    one = results_of("<i>m", "flow3r", [row(draw, named, {"mse": 0.1})], named)
    page = Page(write_page([one], tmp_path, show, title="<u>").read_text(encoding="utf-8"))
    assert HOSTILE in page.text and "<i>m" in page.text and "<u>" in page.text


def test_nothing_measured_is_a_page_too(tmp_path):
    assert Page(write_page([], tmp_path, show).read_text()).figures == 0
