"""Pictures as a video file: mp4, webm or gif, by its name."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flow3r.errors import InputError
from flow3r.files import atomic_path

# Encoders by suffix, the first that this PyAV has is taken; each with its settings and pixels.
ENCODERS = {
    ".mp4": (
        ("libx264", {"crf": "18", "preset": "medium"}, "yuv420p"),  # ours: crf 18 is visually lossless
        ("libopenh264", {"b": "8000000"}, "yuv420p"),
        ("mpeg4", {"qscale": "3"}, "yuv420p"),  # every FFmpeg has it, and fewer browsers play it
    ),
    ".webm": (("libvpx-vp9", {"crf": "24", "b": "0"}, "yuv420p"),),
    ".gif": (("gif", {}, "P"),),
}
H264 = ("libx264", "libopenh264")


def check_movie(path: Path, rate: int, size: tuple[int, int]) -> str:
    """The encoder for a file of that name. Raises InputError where it cannot be written at that rate and size (H, W).

    For .mp4 it is one of H264 if there is one; if there is none, the video is MPEG-4 part 2, which the caller should
    say.
    """
    import av

    suffix = path.suffix.lower()
    if suffix not in ENCODERS:
        raise InputError(f"{path}: cannot write '{suffix}'; expected a name that ends in {', '.join(ENCODERS)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; expected the name of a video file")
    if rate < 1 or min(size) < 16 or size[0] % 2 or size[1] % 2:
        raise InputError(
            f"a video of {size[1]} x {size[0]} pixels at {rate} frames a second; expected even sides of at least 16 "
            "pixels, and a whole rate of at least 1"
        )
    for name, *_ in ENCODERS[suffix]:
        if name in av.codecs_available:
            return name
    names = ", ".join(name for name, *_ in ENCODERS[suffix])
    raise InputError(f"{path}: this PyAV has none of the encoders {names}; choose another of {', '.join(ENCODERS)}")


def write_movie(
    path: str | Path, images: Iterable[UInt8[np.ndarray, "H W 3"]], rate: int, size: tuple[int, int]
) -> str:
    """Write RGB images of one size (H, W), atomically, at `rate` frames a second; returns the encoder's name.

    Equal images give equal bytes. Raises InputError as `check_movie`.
    """
    path = Path(path)
    encoder = check_movie(path, rate, size)
    with atomic_path(path) as temporary:
        if encoder == "gif":
            _write_gif(temporary, images, rate)
        else:
            _write_video(temporary, images, rate, size, encoder)
    return encoder


def _write_video(
    path: Path, images: Iterable[UInt8[np.ndarray, "H W 3"]], rate: int, size: tuple[int, int], encoder: str
) -> None:
    import av

    options, pixels = next(rest for name, *rest in ENCODERS[path.suffix.lower()] if name == encoder)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(encoder, rate=rate, options=options)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))


def _write_gif(path: Path, images: Iterable[UInt8[np.ndarray, "H W 3"]], rate: int) -> None:
    """Through Pillow, which gives each frame a palette of its own; times are whole hundredths of a second."""
    from PIL import Image

    pictures = (Image.fromarray(image).quantize(256) for image in images)
    next(pictures).save(path, save_all=True, append_images=pictures, duration=round(1000 / rate), loop=0)
