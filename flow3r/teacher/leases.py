"""Leases: of several workers on any machines that see a folder, one works in it, until it is done or dead."""

import json
import os
import socket
import tempfile
import threading
from pathlib import Path

LEASE = 120.0  # seconds: longer than network file systems may show stale times (60 s)


class Lease:
    """The right to work in a folder, renewed by a thread while it is held; a context manager.

    The holder has the file `lease-<n>` of the highest n. Whoever finds it not renewed for `seconds`, or its process on
    this host dead, makes the next one, which only one can. That a holder which was asleep goes on after it lost its
    lease is harmless: all write the same, each file at once.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.seconds = path, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    @classmethod
    def take(cls, folder: Path, seconds: float = LEASE) -> "Lease | None":
        """The lease of a folder, which is made; None while another holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        try:
            newest = max((int(file.name.removeprefix("lease-")) for file in folder.glob("lease-*")), default=-1)
            if newest >= 0 and not _expired(folder / f"lease-{newest}", seconds):
                return None
            path = folder / f"lease-{newest + 1}"
            with open(path, "x", encoding="utf-8") as file:
                json.dump([socket.gethostname(), os.getpid()], file)
        except (FileExistsError, FileNotFoundError):  # another was quicker, or has finished and removed the folder
            return None
        return cls(path, seconds)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._done.wait(self.seconds / 4):
            try:
                os.utime(self.path)
            except OSError:
                return


def _expired(path: Path, seconds: float) -> bool:
    with tempfile.TemporaryFile(dir=path.parent) as clock:  # the file server's, since hosts' clocks differ
        now = os.fstat(clock.fileno()).st_mtime
    if now - path.stat().st_mtime > seconds:
        return True
    try:
        host, process = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # just being written
        return False
    return host == socket.gethostname() and not _alive(process)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
