"""CO3Dv2: float16 in 16-bit PNG, depth masks, PyTorch3D cameras, numbers that are not those of the files."""

from pathlib import Path

import numpy as np
import pytest
from co3dv2_on_disk import write_annotations, write_category, write_set_list
from rendered import check_frames, rendered_scene

from flow3r.data.datasets.co3dv2 import CO3DV2, sequences
from flow3r.errors import InputError


@pytest.mark.parametrize("form", ["ndc_isotropic", "ndc_norm_image_bounds"])
@pytest.mark.parametrize("size", [(48, 64), (64, 48)])
def test_a_written_category_comes_back(tmp_path: Path, form: str, size: tuple[int, int]):
    scene = rendered_scene(size=size)
    write_category(tmp_path, {"110_1_2": scene}, intrinsics_format=form)
    (sequence,) = CO3DV2.sequences(tmp_path)
    assert sequence.name == "apple/110_1_2" and len(sequence) == 3 and not sequence.left_out
    np.testing.assert_allclose(sequence.timestamps(), [0, 0.2, 0.4])
    frames = list(sequence.frames(range(3)))
    check_frames(frames, scene, depth_step=0, depth_relative=6e-4)  # float16 has 11 bits
    assert (frames[0].depth[0] == 0).all() and (frames[0].depth[-1, :4] == 0).all()
    assert (frames[0].depth[1:-1] > 0).all()


def test_a_released_camera_has_square_pixels_and_the_centre_of_its_uncropped_image(tmp_path: Path):
    scene = rendered_scene(count=1, size=(640, 479))
    (frame,) = write_category(tmp_path, {"110_13051_23361": scene})
    # Of the first frame of apple/110_13051_23361 in the annotations as released.
    frame["viewpoint"] = {
        "R": [
            [-0.9983327388763428, -0.007844997569918633, -0.05718603357672691],
            [0.007174402941018343, -0.9999032020568848, 0.011922439560294151],
            [-0.05727402865886688, 0.011492285877466202, 0.9982923269271851],
        ],
        "T": [-0.880431592464447, 5.909038543701172, 10.833968162536621],
        "focal_length": [2.300013542175293, 2.300013542175293],
        "principal_point": [-0.002087682718411088, -0.002087682718411088],
        "intrinsics_format": "ndc_isotropic",
    }
    write_annotations(tmp_path / "apple", [frame])
    (read,) = sequences(tmp_path)[0].frames([0])
    # COLMAP undistorts to centred images, here of 480 x 641 before the crop to one size for the sequence.
    np.testing.assert_allclose(read.intrinsics, [[550.853, 0, 240], [0, 550.853, 320.5], [0, 0, 1]], atol=1e-3)
    rotation = read.world_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) > 0 and rotation[2, 2] > 0.99  # looks along z, as PyTorch3D's does


def test_depth_is_scaled_by_the_adjustment_of_its_annotation(tmp_path: Path):
    scene = rendered_scene()
    write_category(tmp_path, {"a": scene}, scale_adjustment=2.5)
    check_frames(list(sequences(tmp_path)[0].frames(range(3))), scene, depth_step=0, depth_relative=6e-4)


def test_a_set_list_names_frames_by_number_not_by_file(tmp_path: Path):
    scene = rendered_scene()
    frames = write_category(tmp_path, {"a": scene, "b": scene})
    write_set_list(tmp_path / "apple", "fewview_dev", train=frames[:2], test=frames[2:3])
    (train,) = sequences(tmp_path, "fewview_dev")
    (test,) = sequences(tmp_path, "fewview_dev", "test")
    assert [file.name for file in train.files] == ["frame000001.jpg", "frame000004.jpg"]
    assert [file.name for file in test.files] == ["frame000007.jpg"]
    with pytest.raises(InputError, match="set_lists_fewview_test"):
        sequences(tmp_path, "fewview_test")


def test_frames_that_cannot_be_used_are_counted_by_reason(tmp_path: Path):
    frames = write_category(tmp_path, {"a": rendered_scene(count=6), "forgotten": rendered_scene(count=1)})
    frames[0]["viewpoint"]["T"][1] = float("nan")
    frames[1]["viewpoint"]["T"][0] = 8.296e16
    frames[2]["depth"] = None
    frames[3]["viewpoint"] = None
    (tmp_path / frames[4]["depth"]["path"]).unlink()
    write_annotations(tmp_path / "apple", frames[:6])
    listed, forgotten = sequences(tmp_path)
    assert len(listed) == 1 and listed.left_out == {
        "non-finite camera": 1,
        "camera out of the world": 1,
        "no depth": 1,
        "no camera": 1,
        "missing depth file": 1,
    }
    assert len(forgotten) == 0 and forgotten.left_out == {"no annotation": 1}


def test_listing_reads_no_annotations_and_a_damaged_file_is_named(tmp_path: Path):
    write_category(tmp_path, {"a": rendered_scene(count=1)})
    file = tmp_path / "apple" / "frame_annotations.jgz"
    file.write_bytes(file.read_bytes()[:40])
    (sequence,) = sequences(tmp_path)
    with pytest.raises(InputError, match=r"frame_annotations\.jgz"):
        len(sequence)


def test_a_wrong_root_says_what_was_looked_for_and_found(tmp_path: Path):
    (tmp_path / "something").mkdir()
    with pytest.raises(InputError, match=r"frame_annotations\.jgz.*something"):
        CO3DV2.sequences(tmp_path)
