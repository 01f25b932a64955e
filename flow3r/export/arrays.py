"""reconstruction.npz: every array of a Reconstruction, without object arrays."""

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np

from flow3r.errors import InputError
from flow3r.types import Reconstruction

FORMAT_VERSION = 1
TEXT_FIELDS = ("pinhole", "scale", "source", "model", "weights_sha256")


def save_arrays(reconstruction: Reconstruction, path: Path) -> None:
    """Write all fields but `timings`, which would make equal reconstructions differ; names as a unicode array."""
    fields = {field.name: getattr(reconstruction, field.name) for field in dataclasses.fields(Reconstruction)}
    del fields["timings"]
    arrays = {name: np.array(value) for name, value in fields.items()}
    np.savez_compressed(path, format_version=np.array(FORMAT_VERSION), **arrays)


def load_reconstruction(path: str | Path) -> Reconstruction:
    """Read a reconstruction.npz, or the folder that holds it. Raises InputError where there is none to be read."""
    path = Path(path)
    path = path / "reconstruction.npz" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a reconstruction.npz written by flow3r")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable npz file ({error}); write the reconstruction again") from error
    version = arrays.pop("format_version", None)
    if version is None or int(version) != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, expected {FORMAT_VERSION}; write the reconstruction again")
    missing = {field.name for field in dataclasses.fields(Reconstruction)} - {"timings"} - set(arrays)
    if missing:
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; write the reconstruction again")
    arrays["names"] = tuple(str(name) for name in arrays["names"])
    arrays.update({name: str(arrays[name]) for name in TEXT_FIELDS})
    return Reconstruction(**arrays)
