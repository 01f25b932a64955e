"""One small scene of each labelled dataset of the paper, in its own format, each in a folder of its name."""

from pathlib import Path

import numpy as np
from arkitscenes_on_disk import write_video
from blendedmvs_on_disk import write_blendedmvs
from co3dv2_on_disk import write_category
from habitat_on_disk import write_batch
from megadepth_on_disk import write_scene
from omniworld_on_disk import write_omniworld
from pointodyssey_on_disk import write_pointodyssey
from rendered import rendered_scene
from scannet_on_disk import write_scan
from scannetpp_on_disk import write_device
from staticthings3d_on_disk import write_staticthings3d
from synthetic_room import walk
from vkitti2_on_disk import write_vkitti2

CENTRED = np.array([[70.0, 0, 42], [0, 70, 28], [0, 0, 1]])


def write_labelled(root: Path) -> list[str]:
    """The names of the datasets written."""
    scene = rendered_scene(size=(56, 84), intrinsics=CENTRED)
    write_category(root / "co3dv2", {"110_1_2": scene})
    write_batch(root / "habitat" / "hm3d" / "00000-a_b", "00000003", scene)
    write_video(root / "arkitscenes", scene)
    write_scan(root / "scannet", scene, scene, name="scene0000_00")  # those from 0707 on are the test
    write_device(root / "scannetpp", walk(3), "iphone")
    # Its depth files of less than 100 KB tell what is nearer, not how near.
    write_scene(root / "megadepth", rendered_scene(size=(140, 210), intrinsics=CENTRED * [[2.5], [2.5], [1]]))
    write_blendedmvs(root / "blendedmvs", scene)
    write_staticthings3d(root / "staticthings3d", scene)
    write_omniworld(root / "omniworld", scene)
    write_pointodyssey(root / "pointodyssey", scene)
    write_vkitti2(root / "vkitti2", scene)
    return sorted(folder.name for folder in root.iterdir())
