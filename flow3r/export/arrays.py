"""reconstruction.npz: every array of a Reconstruction, without object arrays."""

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np

from flow3r.errors import InputError
from flow3r.files import FrameStack, atomic_path
from flow3r.types import Reconstruction

FORMAT_VERSION = 1


def save_arrays(reconstruction: Reconstruction, path: Path) -> None:
    """Write all fields but `timings`, which would make equal reconstructions differ; names as a unicode array.

    What numpy.savez_compressed writes, without ever holding more than a frame.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _write_member(archive, "format_version", FORMAT_VERSION)
        for field in dataclasses.fields(Reconstruction):
            if field.name != "timings":
                _write_member(archive, field.name, getattr(reconstruction, field.name))


def _write_member(archive: zipfile.ZipFile, name: str, value: FrameStack | np.ndarray | tuple | str | int) -> None:
    """A .npy file within the archive, written a frame at a time where there are frames."""
    if not isinstance(value, FrameStack):
        value = np.asarray(value, dtype=str if isinstance(value, tuple) else None)
    header = {"descr": np.lib.format.dtype_to_descr(value.dtype), "fortran_order": False, "shape": value.shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for piece in value if value.ndim > 1 else [value]:
            member.write(np.ascontiguousarray(piece).data)


def load_reconstruction(path: str | Path) -> Reconstruction:
    """Read a reconstruction.npz, or the folder that holds it. Raises InputError where there is none to be read."""
    path = Path(path)
    path = path / "reconstruction.npz" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a reconstruction.npz written by flow3r")
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path}: not a readable npz file; expected a reconstruction.npz that flow3r reconstruct wrote, whole, or "
            "the folder that holds it"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not a readable npz file ({error}); write the reconstruction again") from error
    version = arrays.pop("format_version", None)
    if version is None or int(version) != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, expected {FORMAT_VERSION}; write the reconstruction again")
    fields = {field.name: field for field in dataclasses.fields(Reconstruction)}
    defaults = {name for name, field in fields.items() if _has_default(field)}
    missing, unknown = set(fields) - defaults - set(arrays), set(arrays) - set(fields)
    if missing or unknown:
        differs = f"lacks {', '.join(sorted(missing))}" if missing else f"has unknown {', '.join(sorted(unknown))}"
        raise InputError(f"{path}: {differs}; write the reconstruction again, with this flow3r")
    for name, array in arrays.items():
        if fields[name].type == tuple[str, ...]:
            arrays[name] = tuple(array.tolist())
        elif array.dtype.kind == "U":
            arrays[name] = str(array)
    return Reconstruction(**arrays)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
