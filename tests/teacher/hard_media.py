"""Videos as they come from the wild: each a panning texture, in a form that loaders stumble over."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from made_media import texture, write_video

HEIGHT, WIDTH, STEP = 64, 96, 2  # pixels; STEP a frame to the right


def pan(count: int = 12, seed: int = 0) -> list[np.ndarray]:
    canvas = texture(HEIGHT, WIDTH + STEP * (count - 1), seed)
    return [canvas[:, STEP * k : STEP * k + WIDTH] for k in range(count)]


def truncated(path: Path) -> Path:
    whole = write_video(path, pan(30), options={"movflags": "faststart"})
    path.write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
    return path


def variable_rate(path: Path) -> Path:
    return write_video(path, pan(), milliseconds=[0, 40, 80, 200, 240, 280, 320, 360, 900, 940, 980, 1020])


def an_hour_long(path: Path) -> Path:
    return write_video(path, pan(40), milliseconds=[92_000 * k for k in range(40)])


def rotated(path: Path) -> Path:
    """With a matrix that turns it by a quarter; it is stored in the track header, in 16.16 fixed point."""
    data = bytearray(write_video(path, pan()).read_bytes())
    place = data.index(struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000), data.index(b"tkhd"))
    data[place : place + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


def ten_bit(path: Path) -> Path:
    return _encode(path, pan(), "yuv420p10le")


def interlaced(path: Path) -> Path:
    """Odd rows are half a frame later."""
    fields = pan(25)
    woven = []
    for first, second in zip(fields[::2], fields[1::2]):
        image = first.copy()
        image[1::2] = second[1::2]
        woven.append(image)
    return _encode(path, woven, "yuv420p", {"x264-params": "interlaced=1:tff=1"})


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


READABLE: tuple[Callable[[Path], Path], ...] = (
    truncated, variable_rate, an_hour_long, rotated, ten_bit, interlaced
)  # fmt: skip
UNREADABLE: tuple[Callable[[Path], Path], ...] = (empty, sound_only)


def _encode(path: Path, images: list[np.ndarray], pixels: str, options: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", **(options or {})})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.thread_count = 1
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
