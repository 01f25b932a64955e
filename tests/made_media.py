"""Videos and textures made for tests, whose truth is known."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

CODE_BITS = 10


def numbered_frame(number: int, height: int = 48, width: int = 80) -> np.ndarray:
    """An image that says `number` in black and white blocks which survive lossy codecs: see `number_of`."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for bit in range(CODE_BITS):
        left, right = width * bit // CODE_BITS, width * (bit + 1) // CODE_BITS
        image[: height // 2, left:right] = 255 * (number >> bit & 1)
        image[height // 2 :, left:right] = 255 * (number + 1 >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """The number in the upper half of an upright numbered frame of any size."""
    height, width = image.shape[:2]
    row = image[height // 4].mean(axis=-1)
    return sum(int(row[int(width * (bit + 0.5) / CODE_BITS)] > 127) << bit for bit in range(CODE_BITS))


def write_video(
    path: Path,
    images: Sequence[np.ndarray],
    *,
    milliseconds: Sequence[int] | None = None,
    rate: int = 25,
    gop: int = 8,
    options: dict[str, str] | None = None,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """H.264 with B-frames; at a constant rate, or at the given presentation times."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": str(gop), "bf": "2", "crf": "18"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = number if milliseconds is None else milliseconds[number]
            frame.time_base = Fraction(1, rate) if milliseconds is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def texture(height: int, width: int, seed: int = 0, coarseness: float = 1.5) -> np.ndarray:
    """A smooth random colour image (uint8, H W 3) with detail at several scales, which matchers can hold on to."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for scale in (1, 2, 4, 8):
        noise = generator.standard_normal((height, width, 3)).astype(np.float32)
        blurred = cv2.GaussianBlur(noise, (0, 0), coarseness * scale)
        total += blurred / blurred.std()
    return np.clip(128 + 20 * total, 0, 255).astype(np.uint8)
