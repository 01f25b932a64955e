"""The embedded teacher on real images of static scenes, whose depth and cameras say where every point went."""

from itertools import chain
from pathlib import Path

import pytest

from flow3r.data.datasets.folder import CameraFolder
from flow3r.data.frame import Excerpt
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.teacher.judge import JudgedPair, judge, precision

# Excerpts keep this short: walls with highlights and a fast turn, a desk turned about, a dining room, a rendered room.
EXCERPTS = (
    ("hololens_office", 46, 62),
    ("tum_fr1_rpy", 20, 36),
    ("rgbd_mini5", 0, 5),
    ("pi3_room_synthetic", 0, 3),
)


@pytest.fixture(scope="module")
def accepted(shared: Path) -> dict[str, list[JudgedPair]]:
    folder, found = shared / "data" / "sequences_with_gt", {}
    for name, start, stop in EXCERPTS:
        if not (folder / name).is_dir():
            pytest.skip(f"sample data not found at {folder / name}")
        pairs = judge(Excerpt(CameraFolder(folder / name), start, stop), ClassicalTeacher(), pairs_per_frame=1.0)
        found[name] = [pair for pair in pairs if not pair.reason]
    return found


def test_nine_of_ten_labelled_pixels_are_right_to_three_pixels(accepted):
    """Over all accepted pairs, pooled; the poses refined by feature matches, for tracked ones err by pixels."""
    assert len(list(chain(*accepted.values()))) >= 15 and all(accepted.values())
    assert precision(chain(*accepted.values())) >= 0.9


def test_walls_with_highlights_are_no_exception(accepted):
    """On these frames four in ten labels were wrong before texture was asked for."""
    assert precision(accepted["hololens_office"]) >= 0.85
