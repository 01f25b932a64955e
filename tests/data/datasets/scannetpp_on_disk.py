"""ScanNet++ as its toolkit (scannetpp/scannetpp) lays it out, seen through its distorted cameras.

data/<scene>/dslr/{resized_images,resized_anon_masks,render_depth,colmap} with an OPENCV_FISHEYE camera and
data/<scene>/iphone/{rgb,rgb_masks,render_depth,colmap} with an OPENCV camera (common/scene_release.py). Depth is what
common/render.py renders with liu115/renderpy: z in millimetres, uint16, in the distorted image; masks are 255 where a
pixel is valid (dslr/undistort.py). The lenses after the formulas of "Camera Models" in COLMAP's documentation.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from synthetic_room import HIGH, HORIZON, LOW

from flow3r.geometry.se3 import quaternion_from_rotation

SIZE = (168, 252)
FISHEYE = (113.6, 113.9, 126.5, 84.1, -0.031, -0.004, 0.002, -0.0007)  # of SIZE: fx fy cx cy k1 k2 k3 k4
OPENCV = (188.0, 188.4, 126.4, 94.8, 0.067, -0.081, -0.0005, 0.0018)  # fx fy cx cy k1 k2 p1 p2
DEVICES = {
    "dslr": ("OPENCV_FISHEYE", FISHEYE, "resized_images", "resized_anon_masks", "DSC{:05d}.JPG"),
    "iphone": ("OPENCV", OPENCV, "rgb", "rgb_masks", "frame_{:06d}.jpg"),
}


def write_device(root: Path, poses: np.ndarray, device: str, scene: str = "0a5c013435", prefix: str = "") -> Path:
    """`prefix`: of the names in the sparse model, as the first releases have "video/"."""
    folder = root / "data" / scene / device
    model, parameters, images, masks, names = DEVICES[device]
    for part in (images, masks, "render_depth", "colmap"):
        (folder / part).mkdir(parents=True)
    rays = fisheye_rays(parameters) if device == "dslr" else opencv_rays(parameters)
    mask = np.full(SIZE, 255, np.uint8)
    mask[60:80, 40:70] = 0  # somebody's face
    lines = []
    for k, pose in enumerate(poses):
        name = names.format(10 * k)
        image, depth = seen(rays, pose)
        cv2.imwrite(str(folder / images / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        cv2.imwrite(str(folder / masks / name.replace("jpg", "png").replace("JPG", "png")), mask)
        cv2.imwrite(str(folder / "render_depth" / f"{name.split('.')[0]}.png"), (depth * 1000).astype(np.uint16))
        camera_from_world = np.linalg.inv(pose)
        quaternion = quaternion_from_rotation(torch.from_numpy(camera_from_world[:3, :3])).tolist()
        numbers = [*quaternion, *camera_from_world[:3, 3]]
        lines.append(f"{k + 1} {' '.join(map(repr, map(float, numbers)))} 1 {prefix}{name}\n10 20 -1 30 40 5\n")
    header = "# Image list with two lines of data per image:\n"
    (folder / "colmap" / "images.txt").write_text(header + "".join(lines[::-1]))
    numbers = " ".join(map(str, parameters))
    (folder / "colmap" / "cameras.txt").write_text(f"# Camera list\n1 {model} {SIZE[1]} {SIZE[0]} {numbers}\n")
    return folder


def seen(rays: np.ndarray, world_from_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours and z-depth of the synthetic room along rays with z = 1."""
    rays = rays @ world_from_camera[:3, :3].T
    centre = world_from_camera[:3, 3]
    walls = np.where(rays > 0, HIGH, LOW) - centre
    depth = np.divide(walls, rays, out=np.full_like(rays, np.inf), where=rays != 0).min(axis=-1)
    height = centre[1] + rays[..., 1:2] * depth[..., None]
    return np.where(height < HORIZON, [220, 50, 40], [40, 60, 220]).astype(np.uint8), depth


def distorted(parameters: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Normalised distorted coordinates of the pixel centres, which lie at half-integers."""
    fx, fy, cx, cy = parameters[:4]
    x, y = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
    return (x - cx) / fx, (y - cy) / fy


def fisheye_rays(parameters: tuple[float, ...]) -> np.ndarray:
    """theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) is the distorted radius; bisected."""
    x, y = distorted(parameters)
    radius = np.hypot(x, y)
    low, high = np.zeros_like(radius), np.full_like(radius, 1.5)
    for _ in range(60):
        theta = (low + high) / 2
        less = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(parameters[4:]))) < radius
        low, high = np.where(less, theta, low), np.where(less, high, theta)
    scale = np.tan(low) / radius
    return np.stack([x * scale, y * scale, np.ones_like(x)], axis=-1)


def opencv_rays(parameters: tuple[float, ...]) -> np.ndarray:
    """u (1 + k1 r^2 + k2 r^4) + 2 p1 u v + p2 (r^2 + 2 u^2), likewise v, are distorted; by fixed-point iteration."""
    x, y = distorted(parameters)
    k1, k2, p1, p2 = parameters[4:]
    u, v = x, y
    for _ in range(60):
        r2 = u * u + v * v
        radial = 1 + k1 * r2 + k2 * r2 * r2
        u, v = (
            (x - 2 * p1 * u * v - p2 * (r2 + 2 * u * u)) / radial,
            (y - 2 * p2 * u * v - p1 * (r2 + 2 * v * v)) / radial,
        )
    return np.stack([u, v, np.ones_like(u)], axis=-1)
