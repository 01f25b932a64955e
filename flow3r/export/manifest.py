"""manifest.json: what made the files of an export, what they hold, and the hash of each."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow3r.errors import InputError
from flow3r.export.images import image_name
from flow3r.files import sha256_of_file
from flow3r.types import Reconstruction

NAME = "manifest.json"
FORMAT = "flow3r reconstruction"
CONVENTIONS = {
    "axes": "OpenCV: +x right, +y down, +z forward; GLB has a root node that turns the scene y-up",
    "world": "the frame of the first camera",
    "poses": "camera-to-world; COLMAP files hold world-to-camera, transforms.json OpenGL camera-to-world",
    "pixels": "centres at half-integers: an image spans [0, W] x [0, H]",
    "depth": "z in the camera's frame, 0 = unknown",
    "intrinsics": "pixels of the upright original image, here and in COLMAP and nerfstudio files; of the model's grid "
    "in reconstruction.npz, with original_from_model beside them",
    "confidence": "in [0, 1]",
    "quaternions": "w x y z in COLMAP files, x y z w in the TUM trajectory",
}
SCALE = {
    "relative": "all lengths share one unknown factor; they are not metres",
    "metric": "lengths are in metres",
}


def describe(
    reconstruction: Reconstruction,
    points: dict[str, Any],
    folder: Path,
    earlier: dict[str, dict],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The manifest of the files in `folder`, and of those that `earlier` exports wrote and this one leaves alone.

    Only `timings` differs between two exports of one reconstruction.
    """
    written = {path.name for path in folder.iterdir()}
    files = {name: record for name, record in earlier.items() if name.split("/")[0] not in written}
    for path in folder.rglob("*"):
        if path.is_file():
            record = {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            files[path.relative_to(folder).as_posix()] = record
    residual = reconstruction.intrinsics_residual
    return {
        "format": FORMAT,
        "software": {"flow3r": _version("flow3r"), "torch": torch.__version__, "numpy": np.__version__},
        "model": {"name": reconstruction.model, "weights_sha256": reconstruction.weights_sha256},
        "source": reconstruction.source,
        "scale": {"kind": reconstruction.scale, "meaning": SCALE[reconstruction.scale]},
        "conventions": CONVENTIONS,
        "pinhole": {
            "kind": reconstruction.pinhole,
            "residual_rms_px": float(np.sqrt(np.mean(np.square(residual)))),
            "meaning": "distance, in pixels of the model's grid, between the network's raw pointmap and the rays of "
            "the recovered pinhole, on which the exported points lie",
        },
        "frames": [_frame(reconstruction, frame) for frame in range(len(reconstruction.names))],
        "points": points,
        "files": dict(sorted(files.items())),
        "notes": list(reconstruction.notes),
        "timings": {name: round(value, 4) for name, value in {**reconstruction.timings, **seconds}.items()},
    }


def earlier_files(*folders: Path) -> dict[str, dict]:
    """The files, relative to the output folder, that the manifests in `folders` list, with their records.

    Raises InputError for a manifest.json that is not ours.
    """
    files: dict[str, dict] = {}
    for path in (folder / NAME for folder in folders):
        if not path.is_file():
            continue
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(manifest["format"])
            files.update(manifest["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: was not written by flow3r; choose another output folder") from error
    return files


def _frame(reconstruction: Reconstruction, frame: int) -> dict[str, Any]:
    k = reconstruction.original_intrinsics[frame]
    return {
        "name": reconstruction.names[frame],
        "file": image_name(frame),
        "index": int(reconstruction.frame_indices[frame]),
        "timestamp": float(reconstruction.timestamps[frame]),
        "original_size": reconstruction.original_sizes[frame].tolist(),
        "focal_px": [float(k[0, 0]), float(k[1, 1])],
        "residual_px": float(reconstruction.intrinsics_residual[frame]),
        "confidence_mean": float(reconstruction.confidence[frame].mean()),
        "valid_share": float(reconstruction.valid[frame].mean()),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "a checkout that is not installed"
