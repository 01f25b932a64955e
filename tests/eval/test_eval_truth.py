import numpy as np

from flow3r.data.frame import Frame
from flow3r.eval.truth import _known_pixels


def test_known_depth_is_counted_in_the_frames_that_have_any():
    image, depth = np.zeros((2, 3, 3), np.uint8), np.array([[0.0, 1.0, 2.0], [3.0, 9.0, 0.0]], np.float32)
    frames = [Frame(image, 0.0, "with", depth=depth), Frame(image, 1.0, "without")]
    assert _known_pixels(frames, 5.0) == 3
    assert _known_pixels(frames[1:], 5.0) == 0
