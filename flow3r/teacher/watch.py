"""One source at a time in a child process, so that a file which kills or hangs its decoder costs itself alone."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data import frame
from flow3r.data.labels import LabelStore
from flow3r.data.video import content_sha256, open_source
from flow3r.errors import Flow3rError, InputError
from flow3r.teacher.label import LabelSettings, Source, label_source
from flow3r.types import Teacher

_BEAT = 1.0  # seconds between signs of life
_START = 900.0  # seconds to import packages and load weights


class SourceFailed(Exception):
    """A source that cannot be labelled, with the reason."""


class SourceLost(Exception):
    """A source that ended the process which labelled it, or was silent for too long."""


class Watched:
    """A child process that labels sources; a context manager. It is started when it is first needed.

    A source may take as long as it needs, but for no longer than `timeout` seconds without a decoded frame or a
    finished segment. The child computes on one thread, so that labels do not depend on the number of cores.
    """

    def __init__(self, teacher: Teacher, settings: LabelSettings, timeout: float):
        self.teacher, self.settings, self.timeout = teacher, settings, timeout
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def label(self, source: Source, folder: Path, known: dict[str, str]) -> tuple[str, list[str]]:
        """Label into the store `folder`: the SHA-256 of the source and the names of its segments' files.

        A source whose SHA-256 is `known` is not labelled, and has no file. Raises SourceFailed for a source that
        cannot be labelled, SourceLost if the child died, was silent, or met an error that it should not go on from.
        """
        if self._process is not None and not self._process.is_alive():
            self._end()  # it died between two sources
        if self._process is None:
            self._start()
        self._connection.send((source, folder, known))
        try:
            while (answer := self._hear(self.timeout))[0] == "alive":
                pass
        except SourceLost:
            self._end()
            raise
        kind, content = answer
        if kind == "failed":
            raise SourceFailed(content)
        if kind == "broken":
            self._end()
            raise SourceLost(content)
        return content

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self.teacher, self.settings)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            kind, content = self._hear(_START)
        except SourceLost as error:
            self._end()
            raise InputError(f"the process that labels did not start: {error}") from error
        if kind == "broken":
            self._end()
            raise InputError(f"the teacher {self.teacher.name} cannot be used: {content}")

    def _hear(self, seconds: float) -> tuple[str, object]:
        try:
            if not self._connection.poll(seconds):
                raise SourceLost(f"nothing was decoded or labelled for {seconds:g} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            raise SourceLost(f"its process died ({_cause(self._process.exitcode)})") from error

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = self._connection = None


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(connection: Connection, teacher: Teacher, settings: LabelSettings) -> None:
    """Label what is asked for, until there is nobody to ask."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            made_with = settings.with_teacher(teacher)
        except Exception as error:
            connection.send(("broken", f"{type(error).__name__}: {error}"))
            return
        connection.send(("ready", None))
        while True:
            source, folder, known = connection.recv()
            store = LabelStore(folder, made_with)
            connection.send(_answer(source, known, store, teacher, settings, _Beat(connection)))


def _answer(
    source: Source,
    known: dict[str, str],
    store: LabelStore,
    teacher: Teacher,
    settings: LabelSettings,
    beat: Callable[[], None],
) -> tuple[str, object]:
    try:
        sequence = _Audible(open_source(source), beat)
        digest = content_sha256(sequence)
        if digest in known:
            return "done", (digest, [])
        files = []
        for result in label_source(sequence, store, teacher, settings):
            files.append(result.path.name)
            beat()
        return "done", (digest, files)
    except (Flow3rError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return "failed", str(error)
    except Exception as error:
        return "broken", f"{type(error).__name__}: {error}"


class _Beat:
    """Says that the child is alive, once in a while."""

    def __init__(self, connection: Connection):
        self.connection, self.last = connection, 0.0

    def __call__(self) -> None:
        if time.monotonic() - self.last > _BEAT:
            self.connection.send(("alive", None))
            self.last = time.monotonic()


class _Audible:
    """A sequence whose frames are heard as they are decoded."""

    def __init__(self, sequence: frame.Sequence, beat: Callable[[], None]):
        self.sequence, self.beat = sequence, beat
        self.name = sequence.name
        self.files = sequence.files

    def __len__(self) -> int:
        return len(self.sequence)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self.sequence.timestamps()

    def frames(self, indices: Iterable[int]) -> Iterator[frame.Frame]:
        for item in self.sequence.frames(indices):
            self.beat()
            yield item

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        return frame.frame_sizes(self.sequence, indices)
