"""Still images: one file, or a list of files as a sequence."""

import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.frame import Frame, check_indices
from flow3r.errors import InputError
from flow3r.files import FilePart

EXIF_ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the tag, and its values for images that lie on their side
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def is_image(path: Path) -> bool:
    """Whether the name is that of a still image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sorts names with numbers as people do: 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part.lower()) for part in parts] + [(2, 0, path.name)]


def check_pixels(height: int, width: int, path: str | Path | FilePart) -> None:
    """InputError if an image of this size is too large to decode: a few bytes on disk may claim gigabytes of pixels."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise InputError(
            f"{path}: {width} x {height} pixels are more than the limit of {limit}; "
            "make it smaller first, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file"
        )


def read_image(path: str | Path | FilePart) -> UInt8[np.ndarray, "H W 3"]:
    """An image file as upright RGB: the EXIF orientation is applied, transparency dropped, 16 bits cut to 8.

    Raises InputError if the file is missing, unreadable, cut short, or larger than PIL.Image.MAX_IMAGE_PIXELS.
    """
    from PIL import ImageOps

    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else image
        if upright.mode.startswith("I;16"):
            grey = (np.asarray(upright) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def image_size(path: str | Path | FilePart) -> tuple[int, int]:
    """(H, W) of what `read_image` gives, from the header of the file alone. Raises InputError as it does."""
    with _opened(path) as image:
        lies = image.getexif().get(EXIF_ORIENTATION) in LYING
        return (image.width, image.height) if lies else (image.height, image.width)


@contextmanager
def _opened(path: str | Path | FilePart) -> Iterator[Any]:
    """The PIL image of a file, not yet decoded; whatever is wrong with it, also in decoding, is an InputError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels is stricter
            image = Image.open(io.BytesIO(path.read()) if isinstance(path, FilePart) else path)
        with image:
            check_pixels(image.height, image.width, path)
            yield image
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: image too large to decode safely: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not an image that can be read, or cut short ({error})") from error


@dataclass(frozen=True)
class ImageFiles:
    """A list of image files as a Sequence; sizes may differ. It has no clock: timestamps are the frame indices."""

    name: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content determines the frames."""
        return self.paths

    def __len__(self) -> int:
        return len(self.paths)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return np.arange(len(self.paths), dtype=np.float64)

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, read one at a time."""
        for index in check_indices(indices, len(self)):
            yield Frame(read_image(self.paths[index]), float(index), self.paths[index].name)

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the upright images at `indices`, from their headers."""
        return [image_size(self.paths[index]) for index in check_indices(indices, len(self))]
