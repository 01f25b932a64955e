"""ScanNet++: rooms scanned by laser, seen by a DSLR with a fisheye lens and by an iPhone; depth rendered from the mesh.

data/<scene>/dslr/{resized_images,resized_anon_masks,colmap,render_depth} and data/<scene>/iphone/{rgb,rgb_masks,colmap,
render_depth}, splits/<split>.txt: the release with what its toolkit, scannetpp/scannetpp, makes of it: the images and
masks of iphone/prepare_iphone_data.py and the depth of common/render.py. After common/scene_release.py,
common/render.py, dslr/undistort.py (masks are 255 where valid) and the shaders of liu115/renderpy: z-depth in
millimetres, 0 unknown, in the distorted images. Images, masks and depth are undistorted on reading, as
dslr/undistort.py does images: a fisheye to the pinhole that it chooses, an iPhone to the one of the same intrinsics.
Real intrinsics of both devices were read, no real model (docs/data.md).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from flow3r.data.datasets.colmap import Camera, PosedCamera, read_model
from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_depth, read_values
from flow3r.errors import InputError

LAYOUT = "data/<scene>/dslr/ or iphone/, with images, colmap/ and the render_depth/ of its toolkit"
IMAGES = {"dslr": ("resized_images", "resized_anon_masks"), "iphone": ("rgb", "rgb_masks")}
CENTRES = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # from OpenCV's integer pixel centres to half-integers


def sequences(root: Path, split: str | None = None) -> Sequence[PosedImages]:
    """Each device of each scene that has rendered depth; or of the scenes in splits/<split>.txt alone."""
    found = folders(root, "data/*/*/render_depth", "ScanNet++", LAYOUT)
    devices = [path.parent for path in found if path.parent.name in IMAGES]
    if split is not None:
        file = root / "splits" / f"{split}.txt"
        if not file.is_file():
            there = ", ".join(sorted(path.stem for path in file.parent.glob("*.txt"))) or "none"
            raise InputError(f"{file}: no such split of ScanNet++; there are {there}")
        scenes = set(file.read_text(encoding="utf-8").split())
        devices = [path for path in devices if path.parent.name in scenes]
    return [PosedImages(f"{path.parent.name}/{path.name}", partial(_listing, path)) for path in devices]


def held_out(root: Path) -> list[str]:
    """The devices of the scenes of splits/nvs_sem_val.txt and nvs_test.txt, as far as these files are there."""
    splits = [split for split in ("nvs_sem_val", "nvs_test") if (root / "splits" / f"{split}.txt").is_file()]
    return [device.name for split in splits for device in sequences(root, split)]


def _listing(folder: Path) -> Listing:
    images, left_out = [], Counter()
    for posed in read_model(folder / "colmap"):
        name = Path(posed.name).name  # first releases have video/ or iphone/ before it
        file, depth = folder / IMAGES[folder.name][0] / name, folder / "render_depth" / f"{Path(name).stem}.png"
        if not np.isfinite(posed.world_from_camera).all():
            left_out["non-finite pose"] += 1
        elif not (file.is_file() and depth.is_file()):
            left_out["missing depth file" if file.is_file() else "missing image"] += 1
        else:
            images.append(_posed_image(posed, file, depth, folder / IMAGES[folder.name][1] / depth.name))
    return Listing(images, left_out)


def _posed_image(posed: PosedCamera, file: Path, depth: Path, mask: Path) -> PosedImage:
    read = partial(_valid_depth, depth, mask if mask.is_file() else None)
    number = float(re.findall(r"\d+", file.stem)[-1])
    camera, pose = posed.camera, posed.world_from_camera
    if camera.model == "OPENCV_FISHEYE":
        intrinsics, fit = _pinhole_of_fisheye(camera), partial(_undistort_fisheye, camera, True)
        return PosedImage(file, intrinsics, pose, number, partial(_fisheye_depth, camera, read), fit)
    if camera.model not in ("OPENCV", "PINHOLE"):
        raise InputError(f"{file}: a camera {camera.model}; those of ScanNet++ are OPENCV_FISHEYE and OPENCV")
    return PosedImage(file, camera.intrinsics, pose, number, read, distortion=camera.distortion)


def _valid_depth(depth: Path, mask: Path | None) -> Float[np.ndarray, "H W"]:
    """Metres; 0 where the image is made anonymous."""
    metres = read_depth(depth, 1e-3)
    return metres if mask is None else np.where(read_values(mask) == 255, metres, np.float32(0))


def _pinhole_of_fisheye(camera: Camera) -> Float[np.ndarray, "3 3"]:
    """Of the undistorted image, as dslr/undistort.py chooses it; half-integer centres."""
    import cv2

    size = (camera.size[1], camera.size[0])
    estimate = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify
    distortion = np.array(camera.distortion)
    return estimate(camera.intrinsics - CENTRES, distortion, size, np.eye(3), balance=0.0) + CENTRES


def _undistort_fisheye(
    camera: Camera, blend: bool, pixels: Shaped[np.ndarray, "H W *c"]
) -> Shaped[np.ndarray, "H W *c"]:
    """Blended from neighbours, or taken from the nearest pixel; 0 where the lens did not see."""
    import cv2

    if pixels.shape[:2] != camera.size:
        raise InputError(f"an image of {pixels.shape[:2]} by a camera of {camera.size} (height, width)")
    x, y = _fisheye_maps(camera.size, tuple(camera.intrinsics.ravel().tolist()), camera.distortion)
    return cv2.remap(pixels, x, y, cv2.INTER_LINEAR if blend else cv2.INTER_NEAREST)


@lru_cache(maxsize=2)  # one lens a scene; 8 bytes a pixel
def _fisheye_maps(
    size: tuple[int, int], intrinsics: tuple[float, ...], distortion: tuple[float, ...]
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Where each pixel of the undistorted image comes from."""
    import cv2

    camera = Camera("OPENCV_FISHEYE", size, np.array(intrinsics).reshape(3, 3), distortion)
    wanted = _pinhole_of_fisheye(camera) - CENTRES
    maps = cv2.fisheye.initUndistortRectifyMap
    lens = (camera.intrinsics - CENTRES, np.array(distortion))
    return maps(*lens, np.eye(3), wanted, (size[1], size[0]), cv2.CV_32FC1)


def _fisheye_depth(camera: Camera, read: Callable[[], np.ndarray]) -> Float[np.ndarray, "H W"]:
    return _undistort_fisheye(camera, False, read())


SCANNETPP = Dataset(
    name="scannetpp",
    title="ScanNet++",
    sequences=sequences,
    held_out=held_out,
    labels="posed",
    layout=LAYOUT,
    licence="ScanNet++ Terms of Use (non-commercial research); see https://kaldir.vc.in.tum.de/scannetpp",
    url="https://kaldir.vc.in.tum.de/scannetpp",
    citation="Yeshwanth et al., ScanNet++: A High-Fidelity Dataset of 3D Indoor Scenes, ICCV 2023",
    dense=True,
    rigid=True,
)
