"""Overlapping windows of a sequence, predicted one after the other; smaller ones where memory runs out."""

import gc
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from flow3r.errors import InputError
from flow3r.geometry.stitch import PosedPoints, SimilarityFit, overlap_similarity
from flow3r.reconstruction.frames import FrameReader, Pixels
from flow3r.reconstruction.journal import Journal
from flow3r.reconstruction.network import Network, WindowPrediction

NEAREST = 1e-6  # points at smaller z are not in front of their camera
POOR_FIT = 0.15  # median residual relative to depth; ours: joints of nano on worlds have 0.01-0.03
ALLOCATORS_SAY = ("not enough memory", "can't allocate memory", "out of memory")
OVERLAP_SHARE, LEAST_OVERLAP = 4, 2  # ours: a quarter of a window, and two cameras to tell scale from motion


@dataclass(frozen=True)
class Window:
    """The frames at positions start..stop-1, and what the model says of them."""

    start: int
    stop: int
    pixels: Pixels
    prediction: WindowPrediction

    def posed_points(self, start: int, stop: int) -> PosedPoints:
        """The part of it at these positions; pixels without a point have no weight."""
        part = slice(start - self.start, stop - self.start)
        local, confidence = self.prediction.local_points[part], self.prediction.confidence[part]
        valid = torch.from_numpy(self.pixels.valid[part]) & (local[..., 2] > NEAREST)
        return PosedPoints(local, torch.where(valid, confidence, 0.0), self.prediction.world_from_camera[part])


def default_overlap(views: int) -> int:
    """Frames that a window shares with the next: a quarter, at least two where there are three."""
    return min(max(LEAST_OVERLAP, views // OVERLAP_SHARE), views - 1)


def check_windows(views: int, overlap: int) -> None:
    """InputError for windows that cannot be joined."""
    if views < 2 or not 1 <= overlap < views:
        raise InputError(
            f"windows of {views} frames that overlap by {overlap}; expected at least 2 frames, "
            "and an overlap of at least 1 and less than that"
        )


def split(length: int, views: int, overlap: int) -> list[tuple[int, int]]:
    """(start, stop) of as few windows as cover `length` frames, evenly spread: each of `views` frames (all, if there
    are no more), each sharing at least `overlap` with the next."""
    if length <= views:
        return [(0, length)]
    count = -(-(length - overlap) // (views - overlap))
    starts = np.linspace(0, length - views, count).round().astype(int).tolist()
    return [(start, start + views) for start in starts]


def predict_windows(
    network: Network, reader: FrameReader, length: int, views: int, overlap: int, journal: Journal
) -> Iterator[Window]:
    """The windows of all frames, in order. One that memory does not hold is halved, and those after it.

    Raises InputError if not even two frames fit.
    """
    windows, last = split(length, views, overlap), None
    while windows:
        start, stop = windows[0]
        with journal.timed("read"):
            pixels = reader.window(start, stop)
        try:
            with journal.timed("predict"):
                prediction = network.predict(pixels)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            reason = str(error).strip().split("\n")[0]
        else:
            last = Window(start, stop, pixels, prediction)
            windows = windows[1:]
            yield last
            continue
        views = _halved(network, pixels, reason)
        overlap = min(overlap, default_overlap(views))
        begin = 0 if last is None else last.stop - overlap
        windows = [(begin + start, begin + stop) for start, stop in split(length - begin, views, overlap)]
        journal.notes.append(
            f"out of memory in a window of {len(pixels.names)} frames: windows of {views} from {pixels.names[0]} on"
        )
        _free(network.device)


def _out_of_memory(error: Exception) -> bool:
    """CUDA has an error of its own; the CPU's allocator raises a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(phrase in str(error).lower() for phrase in ALLOCATORS_SAY)


def _halved(network: Network, pixels: Pixels, reason: str) -> int:
    count, height, width = pixels.images.shape[:3]
    if count <= 2:
        raise InputError(
            f"{network.name}: {count} frames of {width} x {height} do not fit into the memory of {network.device} "
            f"({reason}); use fewer tokens, a smaller model, or another device"
        )
    return count // 2


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def join(before: Window, after: Window) -> SimilarityFit:
    """The similarity from the world of a window into that of the one before it, by the frames that both saw."""
    shared = after.start, before.stop
    return overlap_similarity(after.posed_points(*shared), before.posed_points(*shared))


def describe_poor_fit(before: Window, after: Window, fit: SimilarityFit) -> str:
    """A warning about the place where two windows were joined."""
    names = after.pixels.names
    where = f"{names[0]} ... {names[before.stop - after.start - 1]}"
    if math.isinf(fit.residual):
        return f"joined by cameras alone at {where}: no point is seen there in front of a camera"
    return f"joined poorly at {where}: half of the points differ by more than {100 * fit.residual:.0f} % of their depth"


def seam(before: Window, after: Window) -> int:
    """The position from which on `after` says where frames are: either side lies nearer to its window's middle."""
    return (after.start + before.stop) // 2
