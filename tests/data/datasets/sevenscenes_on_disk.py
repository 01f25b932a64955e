"""Writes 7-Scenes as Microsoft's release lays it out, with the projected depth of SimpleRecon's preparation if asked.

After the release's page (frame-XXXXXX.{color.png,depth.png,pose.txt}, depth in mm, 65535 where invalid, focal length of
the depth camera 585, principal point (320, 240), poses of the depth camera) and the preparation script of SimpleRecon,
which repeats that of "On the Limits of Pseudo Ground Truth in Visual Camera Re-localisation" (rigid motion from the
depth to the colour camera, focal length of colour 525).
"""

import re
from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered, rendered_scene
from synthetic_room import walk

SIZE = (480, 640)
COLOUR_FROM_DEPTH = np.array(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
        [0, 0, 0, 1],
    ]
)


def colour_views(count: int = 2) -> Rendered:
    """What the colour camera sees. That of SimpleRecon's depth has integer pixel centres."""
    poses = walk(count)
    poses[:, :3, 3] *= 0.5
    return rendered_scene(size=SIZE, intrinsics=np.array([[525, 0, 320.5], [0, 525, 240.5], [0, 0, 1.0]]), poses=poses)


def write_sevenscenes(folder: Path, truth: Rendered, *, projected: bool, seen: Rendered | None = None) -> None:
    """One `<scene>/seq-XX` folder; `seen`: what the depth camera sees, rendered here if it is not given."""
    folder.mkdir(parents=True)
    world_from_depth = truth.world_from_camera @ COLOUR_FROM_DEPTH
    if seen is None:
        seen = rendered_scene(0, SIZE, np.array([[585, 0, 320], [0, 585, 240], [0, 0, 1.0]]), world_from_depth)
    for k, pose in enumerate(world_from_depth):
        stem = folder / f"frame-{k:06d}"
        cv2.imwrite(f"{stem}.color.png", truth.images[k][..., ::-1])
        raw = np.round(seen.depth[k] * 1000).astype(np.uint16)
        raw[:40, :40] = 65535
        cv2.imwrite(f"{stem}.depth.png", raw)
        text = "".join("".join(f" {number: .7e}\t" for number in row) + "\n" for row in pose)
        Path(f"{stem}.pose.txt").write_text(re.sub(r"e([+-])", r"e\g<1>0", text))  # 9.3817085e-001, as released
        if projected:
            through = np.round(truth.depth[k] * 1000).astype(np.uint16)
            through[:40, :40] = 0
            cv2.imwrite(f"{stem}.depth.proj.png", through)
