"""One open video stream: where its frames are, and decoding the frame of a given timestamp."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flow3r.data.images import check_pixels
from flow3r.errors import InputError
from flow3r.files import FilePart

SEEK_GAIN = 8  # frames that a seek must save to be worth its cost; ours
NOMINAL_RATE = Fraction(25)  # for raw streams that carry no clock at all


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames are: presentation timestamps in ticks of `time_base` seconds, ascending."""

    pts: tuple[int, ...]
    keyframes: tuple[int, ...]  # timestamps at which decoding can start
    time_base: Fraction
    counted: bool = False  # the file has no timestamps, or wrong ones: `pts` are the frames' numbers from the start
    damage: str | None = None  # what is wrong with a file that still decodes in part


class VideoDecoder:
    """An open video file. PyAV calls are confined to this class; a context manager, since it holds a file."""

    def __init__(self, path: Path | FilePart, threads: int = 1):
        self.path, self.threads = path, threads

    def __enter__(self) -> "VideoDecoder":
        import av

        try:
            self._container = av.open(_address(self.path))
        except (av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{self.path}: not a video that ffmpeg reads ({reason})") from error
        # An attached picture is the cover of a sound file.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            self._container.close()
            raise InputError(f"{self.path}: the file has no video stream")
        self._stream = streams[0]
        self._stream.codec_context.thread_count = self.threads
        self._to_rgb = av.video.reformatter.VideoReformatter()  # one for all frames: 6 % faster than one for each
        self._decoded: Iterator[tuple[int, Any]] | None = None
        self._last: int | None = None  # timestamp of the last decoded frame
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def read_index(self) -> VideoIndex:
        """Where the frames are, from the packets alone if decoding from the last keyframe on confirms them.

        If it does not (a file that is cut short, or a codec with frames that are never shown), everything is decoded
        once and only frames that come out whole are counted.
        """
        packets, hidden, whole = self._packets()
        expected = max(self._stream.frames - hidden, len(packets))
        times = sorted({pts for pts, _ in packets if pts is not None})
        keyframes = tuple(sorted({pts for pts, is_keyframe in packets if is_keyframe and pts is not None}))
        if whole and keyframes and len(times) == expected:
            self._container.seek(keyframes[-1], stream=self._stream)
            decoded = [time for time in self._whole_frames() if time is not None and time >= keyframes[-1]]
            if decoded == [time for time in times if time >= keyframes[-1]]:
                return VideoIndex(tuple(times), keyframes, self._stream.time_base)
        return self._index_by_decoding(expected, keyframes)

    def _packets(self) -> tuple[list[tuple[int | None, bool]], int, bool]:
        """(timestamp, is keyframe) of every packet that is shown, how many are not, and whether none is damaged."""
        import av

        packets, hidden, whole = [], 0, True
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_discard:  # cut away by an edit list
                    hidden += 1
                elif packet.size:
                    packets.append((packet.pts, packet.is_keyframe))
                    whole &= not packet.is_corrupt
        except (av.error.FFmpegError, OSError):
            whole = False
        return packets, hidden, whole

    def _index_by_decoding(self, expected: int, keyframes: tuple[int, ...]) -> VideoIndex:
        self._reopen()
        times = self._whole_frames()
        damage = f"cut short or damaged: {len(times)} of {expected} frames decode" if len(times) < expected else None
        if all(time is not None for time in times) and all(a < b for a, b in pairwise(times)):
            return VideoIndex(tuple(times), keyframes, self._stream.time_base, damage=damage)
        rate = Fraction(self._stream.average_rate or NOMINAL_RATE)
        return VideoIndex(tuple(range(len(times))), (), 1 / rate, counted=True, damage=damage)

    def _whole_frames(self) -> list[int | None]:
        return [frame.pts for frame in self._frames() if not frame.is_corrupt]

    def _reopen(self) -> None:
        """Back to the start, where not every format can seek to."""
        self._container.close()
        self.__enter__()

    def _frames(self) -> Iterator[Any]:
        """All that decodes from here on, in the order of presentation; damaged packets are passed over."""
        import av

        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    continue
                yield from frames
        except (av.error.FFmpegError, OSError):
            return

    def frame_at(self, time: int, index: VideoIndex) -> UInt8[np.ndarray, "H W 3"]:
        """The frame presented at `time`, which must not lie before an earlier call's: upright, square pixels, RGB.

        Raises InputError if it does not decode.
        """
        if self._decoded is None or self._worth_seeking(time, index):
            if keyframes := index.keyframes[: bisect_right(index.keyframes, time)]:
                self._container.seek(keyframes[-1], stream=self._stream)
            self._decoded = self._timed(index)
        frame = self._next_at(time)
        if frame is None:  # the seek ended too late, or a frame is damaged: decode all from the start
            self._reopen()
            self._decoded = self._timed(index)
            frame = self._next_at(time)
        if frame is None:
            seconds = float(time * index.time_base)
            raise InputError(f"{self.path}: the frame at {seconds:.3f} s does not decode; the file is damaged there")
        return self._upright(frame)

    def _worth_seeking(self, time: int, index: VideoIndex) -> bool:
        keyframe = bisect_right(index.keyframes, time) - 1
        if keyframe < 0:
            return False
        decoded = bisect_right(index.pts, self._last) if self._last is not None else 0
        return bisect_right(index.pts, index.keyframes[keyframe]) - decoded > SEEK_GAIN

    def _timed(self, index: VideoIndex) -> Iterator[tuple[int, Any]]:
        for number, frame in enumerate(self._frames()):
            if index.counted:
                yield number, frame
            elif frame.pts is not None:
                yield frame.pts, frame

    def _next_at(self, time: int) -> Any | None:
        for decoded_time, frame in self._decoded:
            self._last = decoded_time
            if decoded_time >= time:
                return frame if decoded_time == time else None
        return None

    def _upright(self, frame: Any) -> UInt8[np.ndarray, "H W 3"]:
        import cv2

        check_pixels(frame.height, frame.width, self.path)
        image = self._to_rgb.reformat(frame, format="rgb24").to_ndarray()
        if frame.interlaced_frame:  # its two fields are of two times: one of them is kept
            image = cv2.resize(image[::2], (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
        pixel_aspect = float(self._stream.sample_aspect_ratio or 1) or 1.0
        if pixel_aspect != 1:
            width = max(1, round(image.shape[1] * pixel_aspect))
            image = cv2.resize(image, (width, image.shape[0]), interpolation=cv2.INTER_LINEAR)
        # PyAV reports the counter-clockwise turn that makes the frame upright and leaves the pixels as they are.
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _address(path: Path | FilePart) -> str:
    """What ffmpeg opens: a file, or a part of one by its protocol for that."""
    if isinstance(path, FilePart):
        return f"subfile,,start,{path.offset},end,{path.offset + path.size},,:{Path(path.path).resolve()}"
    return str(path)
