"""A video with cuts: a reconstruction, and what is forecast of it, never go across one unless they are asked to."""

import numpy as np
import pytest
from made_media import write_video
from synthetic_room import ExactModel, walk

from flow3r.errors import InputError
from flow3r.export import write_reconstruction
from flow3r.reconstruction import reconstruct
from flow3r.reconstruction.forecast import forecast

SIZE, SHOTS = (64, 96), ((0, 5), (5, 17), (17, 24))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    colours = ((250, 20, 20), (20, 60, 20), (20, 120, 250))
    images = [
        np.full((*SIZE, 3), colours[k], np.uint8) for k, (start, stop) in enumerate(SHOTS) for _ in range(start, stop)
    ]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", images)


def made(film, **settings):
    """By a model that takes the brightness of a frame for the number of a pose."""
    return reconstruct(film, ExactModel(walk(26), 80.0, SIZE), tokens=(20, 24), **settings)


def test_frames_come_from_the_longest_shot_and_a_note_names_it(film):
    scene = made(film, max_frames=4)
    assert scene.frame_indices.tolist() == [5, 9, 12, 16]
    assert scene.notes == ("film has 3 shots; this is number 2, the longest, frames 5 to 16",)
    np.testing.assert_allclose(scene.timestamps, scene.frame_indices / 25)


def test_a_shot_is_chosen_by_its_number_and_all_goes_across_the_cuts(film):
    assert made(film, max_frames=2, shot="3").frame_indices.tolist() == [17, 23]
    across = made(film, max_frames=2, shot="all")
    assert across.frame_indices.tolist() == [0, 23] and across.notes == ()
    with pytest.raises(InputError, match="shot '4': expected longest, all, or a number from 1 to 3"):
        made(film, shot="4")


def test_the_images_that_are_exported_are_those_of_the_shot(film, tmp_path):
    """The source that is named for the export is the video, not the shot."""
    from flow3r.data.images import read_image

    written = write_reconstruction(made(film, max_frames=3), tmp_path, "colmap", source=film)
    images = sorted((written["colmap"].parent / "images").iterdir())
    assert len(images) == 3
    for path in images:
        assert np.abs(read_image(path).mean((0, 1)) - (20, 60, 20)).max() < 12


def test_a_forecast_is_of_the_run_that_the_same_arguments_make(film):
    assert "film: 12 of 12 frames" in "\n".join(lines := forecast(film, device="cpu", memory_gb=2))
    assert lines[0].endswith("film has 3 shots; this is number 2, the longest, frames 5 to 16")
    assert "film: 5 of 24 frames" in "\n".join(forecast(film, device="cpu", memory_gb=2, shot="all", max_frames=5))
