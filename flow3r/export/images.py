"""The frames that were used, upright and at original size, for the formats that refer to images."""

from pathlib import Path

from flow3r.data.arrays import FrameSource, open_frames
from flow3r.errors import InputError
from flow3r.types import Reconstruction

JPEG_QUALITY = 95  # ours: visually lossless at about a tenth of the bytes of PNG


def image_name(frame: int) -> str:
    """The stable name of a frame's file: names of sources may collide or not be safe as paths."""
    return f"{frame:06d}.jpg"


def write_images(reconstruction: Reconstruction, source: FrameSource, folder: Path) -> None:
    """Read the frames of `source` again, one at a time, and write them to `folder` under `image_name`.

    `source` is what was reconstructed, or only the frames that were used. Raises InputError where they differ.
    """
    from PIL import Image

    sequence = open_frames(source)
    names = reconstruction.names
    indices = [int(index) for index in reconstruction.frame_indices]
    if len(sequence) == len(names):
        indices = list(range(len(names)))
    elif len(sequence) <= indices[-1]:
        raise InputError(
            f"the source has {len(sequence)} frames; expected what was reconstructed, with more than {indices[-1]}"
        )
    folder.mkdir()
    written = 0
    for frame in sequence.frames(indices):
        expected = tuple(reconstruction.original_sizes[written].tolist())
        if frame.image.shape[:2] != expected:
            got = "x".join(map(str, frame.image.shape[:2]))
            raise InputError(f"{frame.name}: is {got} now, was {expected[0]}x{expected[1]} when it was reconstructed")
        Image.fromarray(frame.image).save(folder / image_name(written), quality=JPEG_QUALITY, subsampling=0)
        written += 1
    if written != len(names):
        raise InputError(f"the source gave {written} of {len(names)} frames; it changed since it was reconstructed")
