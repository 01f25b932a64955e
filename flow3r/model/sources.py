"""Where weights come from: the package, a file, a folder, the hub; and what a file holds, checked at the door."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flow3r.errors import CheckpointError
from flow3r.model.layouts import Layout, recognise
from flow3r.model.licences import check_licence, mention_origin

PACKAGED = ("nano", "nano-vggt")
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# In this order: ours and most others, transformers before safetensors, and the public Flow3r's and VGGT's own names.
FILE_NAMES = ("model.safetensors", "flow3r.bin", "pytorch_model.bin", "model.pt", "vggt_1B_commercial.pt")
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Source:
    """A weight file that was read: `tensors` under our names, `unknown` the names that its layout does not have."""

    path: Path
    layout: Layout
    tensors: dict[str, Tensor]
    unknown: tuple[str, ...]
    metadata: dict[str, str]

    def names(self, key: str) -> str:
        """A key of ours as this file names it."""
        return ", ".join(self.layout.public_names(key)) or key


def read_source(name_or_path: str | Path, accept_license: bool = False) -> Source:
    """Read a weight file, of whatever layout, from anywhere that `find_weights` looks.

    Raises CheckpointError for a file that is missing, damaged, unsafe, of an unknown layout, that holds NaN or
    infinity, or whose licence is not accepted.
    """
    path = find_weights(name_or_path, accept_license)
    tensors, metadata = read_tensors(path)
    try:
        layout = recognise(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if "origin" in metadata:
        check_licence(metadata["origin"], accept_license)
    mention_origin(layout.name, path)
    for key, value in tensors.items():
        if not torch.isfinite(value.float()).all():  # of 8 bits too
            raise CheckpointError(f"{path}: {key} holds NaN or infinity; the weights are damaged, fetch them again")
    known = layout.our_names(tensors)
    return Source(path, layout, layout.to_ours(tensors), tuple(sorted(set(tensors) - set(known))), metadata)


def check_keys(source: Source, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless `got` has exactly the names and shapes of `expected`, both under our names.

    It counts what is missing, unexpected and mis-shaped, and lists the first of each as the file names them.
    """
    missing = sorted(set(expected) - set(got))
    misshaped = [
        f"{source.names(key)} {tuple(got[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(set(expected) & set(got))
        if got[key].shape != expected[key].shape
    ]
    problems = {
        "missing": [source.names(key) for key in missing],
        "unexpected": sorted([*source.unknown, *(source.names(key) for key in set(got) - set(expected))]),
        "mis-shaped": misshaped,
    }
    said = [f"{len(keys)} {kind} (first: {', '.join(keys[:3])})" for kind, keys in problems.items() if keys]
    if said:
        raise CheckpointError(f"{source.path}: keys do not fit the model: {'; '.join(said)}")


def find_weights(name_or_path: str | Path, accept_license: bool = False) -> Path:
    """The file that a name, a path or a hub id stands for; only a hub id reaches for the network.

    The licence of a known hub id comes first. Raises CheckpointError where there is nothing, or no acceptance.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_dir():
        found = [path / file for file in FILE_NAMES if (path / file).is_file()]
        if found:
            return found[0]
        if name not in PACKAGED:
            raise CheckpointError(f"{name}: the folder holds none of {', '.join(FILE_NAMES)}; give the file itself")
    if path.is_file():
        return path
    if name in PACKAGED:
        packaged = resources.files("flow3r") / "weights" / f"{name}.safetensors"
        if packaged.is_file():
            return Path(str(packaged))
        raise CheckpointError(f"{name}: its weights are not in this installation; train them: flow3r train {name}")
    if name.startswith("runs/"):  # where presets look for the stage before them; no owner of a hub
        stage = name.removeprefix("runs/")
        raise CheckpointError(
            f"{name}: no such folder here; an earlier stage leaves it: flow3r train {stage} -o {name}"
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not path.parent.exists() and path.suffix not in SUFFIXES:
        check_licence(name, accept_license)
        return _from_hub(name)
    raise CheckpointError(
        f"{name}: no such file; expected a weight file, a folder with {FILE_NAMES[0]}, a hub id like owner/name, "
        f"or one of {', '.join(PACKAGED)}"
    )


def _from_hub(name: str) -> Path:
    """The first of the usual files in a hub repository, from the local cache where the hub is out of reach."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(f"{name}: a hub id needs huggingface_hub; pip install huggingface_hub") from error
    cut_off: Exception | None = None
    for file in FILE_NAMES:
        try:
            weights = Path(hf_hub_download(name, file, local_files_only=cut_off is not None))
        except LocalEntryNotFoundError as error:  # HF_HUB_OFFLINE or no network: another of the files may be cached
            cut_off = cut_off or error
        except EntryNotFoundError:
            continue
        except Exception as error:  # the network, the repository, access: of many libraries' types
            raise CheckpointError(
                f"{name}: no such file here, and not fetched from the hub ({type(error).__name__}); give a local file"
            ) from error
        else:
            try:
                hf_hub_download(name, CONFIG_FILE, local_files_only=cut_off is not None)
            except Exception:  # few repositories need it: ours keep their sizes inside the weights
                return weights
            return weights
    if cut_off is not None:
        raise CheckpointError(
            f"{name}: no such file here, not in the hub's cache, and the hub is out of reach (offline mode or no "
            f"network); fetch it once while online, or give a local file"
        ) from cut_off
    raise CheckpointError(f"{name}: the hub repository holds none of {', '.join(FILE_NAMES)}; give a local file")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors or pickle file, and its metadata. Pickle is opened with weights only, or refused."""
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: not a weight file; expected one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError) as error:
        raise CheckpointError(f"{path}: damaged or not a weight file ({error}); fetch it again") from error
    except Exception as error:  # the unpickler refuses what is not plain tensors, in several exception types
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors or is damaged; expected a plain state dict or safetensors"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: expected a flat dict of tensors, got {type(loaded).__name__}")
    return dict(loaded), {}
