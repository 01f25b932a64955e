"""Habitat as DUSt3R's datasets_preprocess/habitat renders it, from a rendered scene.

<scene>/<batch>_<view>.jpeg, .._depth.exr (half floats in a channel "Y", ZIP, as OpenCV writes them) and
.._camera_params.json. The EXR files after "OpenEXR File Layout" of OpenEXR's documentation.
"""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered


def write_batch(folder: Path, batch: str, scene: Rendered) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(scene.images):
        label = f"{batch}_{k + 1}"
        cv2.imwrite(str(folder / f"{label}.jpeg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        write_exr(folder / f"{label}_depth.exr", scene.depth[k].astype(np.float16))
        intrinsics = scene.intrinsics - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]  # integer centres, as in OpenCV
        parameters = {
            "camera_intrinsics": intrinsics.tolist(),
            "size": [image.shape[1], image.shape[0]],
            "R_cam2world": scene.world_from_camera[k, :3, :3].tolist(),
            "t_cam2world": scene.world_from_camera[k, :3, 3].tolist(),
        }
        (folder / f"{label}_camera_params.json").write_text(json.dumps(parameters))


def write_exr(file: Path, values: np.ndarray) -> None:
    """One channel of half or single floats in blocks of 16 lines, by ZIP: bytes split, differenced, deflated."""
    height, width = values.shape
    kind, raw = (1, "<f2") if values.dtype == np.float16 else (2, "<f4")
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<ii", 20000630, 2)
    for name, form, value in (
        ("channels", "chlist", b"Y\0" + struct.pack("<iB3xii", kind, 0, 1, 1) + b"\0"),
        ("compression", "compression", b"\3"),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ):
        header += name.encode() + b"\0" + form.encode() + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    blocks = [(y, _zipped(values[y : y + 16].astype(raw).tobytes())) for y in range(0, height, 16)]
    offset, table = len(header) + 8 * len(blocks), b""
    for _, block in blocks:
        table += struct.pack("<Q", offset)
        offset += 8 + len(block)
    file.write_bytes(header + table + b"".join(struct.pack("<ii", y, len(block)) + block for y, block in blocks))


def _zipped(content: bytes) -> bytes:
    split = np.frombuffer(content, np.uint8).astype(int)
    split = np.concatenate([split[::2], split[1::2]])
    differences = np.concatenate([split[:1], (np.diff(split) + 128) % 256]).astype(np.uint8)
    packed = zlib.compress(differences.tobytes())
    return packed if len(packed) < len(content) else content
