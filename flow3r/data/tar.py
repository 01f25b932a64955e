"""Tar archives read where they lie: what their members are, without unpacking."""

import tarfile
import warnings
from pathlib import Path

from flow3r.errors import InputError
from flow3r.files import FilePart


def tar_members(archive: Path) -> list[FilePart]:
    """The files in an archive, in its order. Headers alone are read; one that is cut short gives a warning.

    InputError for what is no tar archive, or is compressed: compressed bytes cannot be read from the middle.
    """
    members: list[FilePart] = []
    try:
        with tarfile.open(archive, "r:") as content:
            for member in content:
                if member.isreg() and not member.issparse():
                    name = member.name.removeprefix("./")
                    members.append(FilePart(str(archive), member.offset_data, member.size, name))
    except (OSError, tarfile.TarError) as error:
        if not members:
            raise InputError(
                f"{archive}: not a tar archive that can be read in place ({error}); if it is compressed, unpack it, or "
                "pack it again without compression"
            ) from error
        warnings.warn(f"{archive}: cut short or damaged after {len(members)} files ({error})", stacklevel=2)
    return members


def sample_key(name: str) -> str:
    """Which sample a member belongs to, as in WebDataset: its path up to the first dot of its last part."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]
