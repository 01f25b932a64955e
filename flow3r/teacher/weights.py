"""What a neural teacher needs from elsewhere: its package, imported when it is used, and its weights.

Nothing is downloaded before the licence of the weights is accepted; what lies in the caches of torch.hub and Hugging
Face, or in a file of one's own, is used as it is.
"""

import importlib
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from flow3r.errors import CheckpointError, InputError
from flow3r.files import sha256_of_bytes, sha256_of_file
from flow3r.model.licences import Licence, agree_to


@dataclass(frozen=True)
class Package:
    """The package of a teacher's network: what to import, how to install it, and the licence of its code."""

    module: str
    distribution: str
    install: str
    licence: str

    def load(self, weights: Licence) -> ModuleType:
        """The module. Raises InputError if it cannot be imported."""
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise InputError(
                f"{self.module} cannot be imported ({error}); install it: {self.install}. Licence of the code: "
                f"{self.licence}; of the weights: {weights}"
            ) from error

    def version(self) -> str:
        """Of what is installed; of a source tree that was never installed, its `__version__`."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return str(getattr(importlib.import_module(self.module), "__version__", "unknown"))


def fetch_file(url: str, licence: Licence, accept: bool = False) -> Path:
    """The file of a URL in the cache of torch.hub, downloaded if it is not there and its licence is accepted.

    Raises CheckpointError where it is neither, or the download fails.
    """
    name = url.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        agree_to(licence, accept)
        return path
    _agree_to_download(licence, accept, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.search(r"-([a-f0-9]{8,})\.", name)
    try:
        torch.hub.download_url_to_file(url, str(path), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{url}: cannot be downloaded ({error}); put the file at {path}") from error
    return path


def fetch_snapshot(
    hub_id: str, revision: str | None, names: Sequence[str], licence: Licence, accept: bool = False
) -> Path:
    """The folder of a Hugging Face model with these files, downloaded if it is not there and its licence is accepted.

    Raises CheckpointError where it is neither, or the download fails.
    """
    from huggingface_hub import snapshot_download

    def snapshot(**options: Any) -> Path:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(names), **options))

    try:
        folder = snapshot(local_files_only=True)
    except (OSError, ValueError):
        folder = None
    if folder is not None and all((folder / name).exists() for name in names):
        agree_to(licence, accept)
        return folder
    _agree_to_download(licence, accept, "the cache of Hugging Face (HF_HOME)")
    try:
        return snapshot()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{hub_id}: cannot be downloaded ({error}); give a folder with {', '.join(names)}"
        ) from error


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, on the CPU. Raises CheckpointError for a file that is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its parsers raise
        raise CheckpointError(f"{path}: cannot be read as weights ({error}); fetch the file again") from error


def sha256_of_files(paths: Sequence[Path]) -> str:
    """The SHA-256 of one file; of several, of their hashes. Raises CheckpointError for a file that is missing."""
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; expected weights")
    hashes = [sha256_of_file(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else sha256_of_bytes("".join(hashes).encode())


def _agree_to_download(licence: Licence, accept: bool, place: str) -> None:
    try:
        agree_to(licence, accept, must_accept=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"the weights are not in {place}; they are downloaded once their licence is accepted. {error}"
        ) from None
