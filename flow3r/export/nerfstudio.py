"""nerfstudio's transforms.json: OpenGL camera-to-world poses and pinholes of the original images."""

from pathlib import Path

import numpy as np

from flow3r.export.cameras import one_camera
from flow3r.export.images import image_name
from flow3r.files import write_json
from flow3r.types import Reconstruction

# OpenGL cameras look along -z with +y up: the columns of y and z change sign, the world stays.
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write_nerfstudio(reconstruction: Reconstruction, path: Path, images: str, ply: str) -> None:
    """`images` is the folder of the frames and `ply` the point cloud, both relative to the folder of `path`.

    The world is the reconstruction's own, as in the point cloud; `applied_transform` states it as the identity.
    """
    poses = reconstruction.world_from_camera @ OPENCV_FROM_OPENGL
    shared = one_camera(reconstruction)
    frames = []
    for frame, pose in enumerate(poses):
        record = {"file_path": f"{images}/{image_name(frame)}", "transform_matrix": pose.tolist()}
        frames.append(record if shared else {**record, **_camera(reconstruction, frame)})
    document = {
        "camera_model": "OPENCV",
        **(_camera(reconstruction, 0) if shared else {}),
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": ply,
        "frames": frames,
    }
    write_json(path, document)


def _camera(reconstruction: Reconstruction, frame: int) -> dict[str, float | int]:
    height, width = reconstruction.original_sizes[frame].tolist()
    k = reconstruction.original_intrinsics[frame]
    pinhole = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
    undistorted = dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    return {"w": width, "h": height, **{name: float(value) for name, value in pinhole.items()}, **undistorted}
