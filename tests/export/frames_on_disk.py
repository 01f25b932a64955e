"""Reconstructions of any length, and whose frames are on disk."""

import dataclasses
import weakref

import numpy as np

from flow3r.data.frame import Frame
from flow3r.files import FrameStack

DENSE = ("depth", "points", "raw_points", "confidence", "colours", "valid")


class WatchedStack(FrameStack):
    """Knows how many frames of all stacks of its class are in memory, and the most that ever were."""

    alive, most = 0, 0

    def __getitem__(self, index):
        values = super().__getitem__(index)
        frames = len(values) if isinstance(index, slice) else 1
        type(self)._count(frames)
        weakref.finalize(values if values.base is None else values.base, type(self)._count, -frames)
        return values

    @classmethod
    def _count(cls, frames):
        cls.alive += frames
        cls.most = max(cls.most, cls.alive)


def on_disk(reconstruction, folder, kind=FrameStack):
    """The same reconstruction with every value per pixel in a stack of class `kind`, one file each in `folder`."""
    stacks = {}
    for name in DENSE:
        frames = getattr(reconstruction, name)
        stacks[name] = kind.create(folder / f"{name}.npy", frames.shape, frames.dtype)
        stacks[name][:] = frames
    return dataclasses.replace(reconstruction, **stacks)


def again_and_again(reconstruction, count):
    """As if its camera had gone the same way until it had taken `count` frames."""
    frames = np.arange(count) % len(reconstruction.names)
    lists = {name: values for name, values in vars(reconstruction).items() if isinstance(values, np.ndarray)}
    fields = {name: values[frames] for name, values in lists.items() if name != "shared_intrinsics"}
    names = tuple(f"frame {index}" for index in range(count))
    return dataclasses.replace(reconstruction, **{**fields, "frame_indices": np.arange(count), "names": names})


@dataclasses.dataclass(frozen=True)
class GreyVideo:
    """The originals of a reconstruction, as a Sequence that makes each frame when it is asked for."""

    sizes: np.ndarray
    name: str = "grey"

    def __len__(self):
        return len(self.sizes)

    def timestamps(self):
        return np.arange(len(self), dtype=np.float64)

    def frames(self, indices):
        for index in indices:
            yield Frame(np.full((*self.sizes[index], 3), index % 256, np.uint8), float(index), f"frame {index}")
