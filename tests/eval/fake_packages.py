"""Stand-ins for the packages of outside methods: the real calls, and answers that tell the truth of the exact room.

Their answers are written in each method's own output, conventions included; signatures are compared with those of the
packages' sources (runner_signatures.json).
"""

from enum import Enum
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from synthetic_room import render_rays, walk

from flow3r.geometry.se3 import quaternion_from_rotation

SIZE = (90, 120)  # (H, W) of the frames
FOCAL = (100.0, 90.0)  # x and y, of the frames
SCALE = 2.5  # of every answer's world
POSES = walk(3)


def world_of_its_own() -> np.ndarray:
    """Some rigid motion: their world from ours."""
    motion = np.linalg.inv(POSES[1]) @ walk(5)[4]
    motion[:3, 3] += [3.0, -1.0, 2.0]
    return motion


def their_poses() -> np.ndarray:
    """Camera-to-world, in their world and scale."""
    poses = world_of_its_own() @ POSES
    poses[:, :3, 3] *= SCALE
    return poses


def seen(view: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local points in their scale, and depth, of what a view sees at pixels (h w 2) of the original frame."""
    centre = np.array([SIZE[1] / 2, SIZE[0] / 2])
    rays = np.concatenate([(pixels - centre) / FOCAL, np.ones((*pixels.shape[:2], 1))], axis=-1)
    depth, _, _ = render_rays(POSES[view], rays)
    return SCALE * depth[..., None] * rays, SCALE * depth


def resized_and_cropped(size: tuple[int, int], crop: tuple[int, int, int, int]) -> np.ndarray:
    """The original's pixels (h w 2) under the centres of an image that was made `size` (H, W) and cropped (left, top,
    right, bottom)."""
    left, top, right, bottom = crop
    x = (np.arange(left, right) + 0.5) * SIZE[1] / size[1]
    y = (np.arange(top, bottom) + 0.5) * SIZE[0] / size[0]
    return np.stack(np.meshgrid(x, y), axis=-1)


def frame_images() -> list[np.ndarray]:
    """Uniformly grey: 10 times the number of the view."""
    return [np.full((*SIZE, 3), 10 * view, np.uint8) for view in range(len(POSES))]


def number_of(path: str) -> int:
    with Image.open(path) as image:
        assert image.size == SIZE[::-1]
        return image.getpixel((0, 0))[0] // 10


class _DustLoader:
    """`load_images` of DUSt3R and CUT3R at 512 pixels: 120 x 90 becomes 512 x 384, which is whole already."""

    PIXELS = resized_and_cropped((384, 512), (0, 0, 512, 384))

    @staticmethod
    def load_images(folder_or_list, size, square_ok=False, verbose=True):
        assert size == 512
        images = [torch.full((1, 3, 384, 512), 0.1 * number_of(path)) for path in folder_or_list]
        rest = {"true_shape": np.int32([[384, 512]])}
        return [{"img": image, "idx": k, "instance": str(k)} | rest for k, image in enumerate(images)]


class _Network:
    """Loads from anywhere, goes anywhere."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kw):
        return cls()

    def to(self, device):
        return self

    def eval(self):
        return self


def dust3r() -> dict[str, ModuleType]:
    """The modules of DUSt3R."""

    class AsymmetricCroCo3DStereo(_Network):
        pass

    def make_pairs(imgs, scene_graph="complete", prefilter=None, symmetrize=True):
        assert scene_graph == "complete" and symmetrize
        return [(a, b) for a in imgs for b in imgs if a is not b]

    def inference(pairs, model, device, batch_size=8, verbose=True):
        return {"views": {round(float(a["img"].mean()) * 10) for a, _ in pairs}}

    class GlobalAlignerMode(Enum):
        PointCloudOptimizer = "PointCloudOptimizer"
        ModularPointCloudOptimizer = "ModularPointCloudOptimizer"
        PairViewer = "PairViewer"

    class Scene:
        def __init__(self, views, aligned):
            self.views, self.aligned = sorted(views), aligned

        def compute_global_alignment(self, init=None, niter_PnP=10, **kw):
            assert init == "mst" and set(kw) == {"niter", "schedule", "lr"}
            self.aligned = True

        def get_im_poses(self):
            assert self.aligned
            return torch.from_numpy(their_poses()[self.views]).requires_grad_()

        def get_pts3d(self, raw=False):
            poses = their_poses()
            local = [seen(view, _DustLoader.PIXELS)[0] for view in self.views]
            return [
                torch.from_numpy(points @ poses[view, :3, :3].T + poses[view, :3, 3]).requires_grad_()
                for view, points in zip(self.views, local)
            ]

        def get_intrinsics(self):
            scale = np.array([512 / SIZE[1], 384 / SIZE[0]])
            matrix = torch.eye(3).repeat(len(self.views), 1, 1)
            matrix[:, [0, 1], [0, 1]] = torch.tensor(scale * FOCAL).float()
            matrix[:, :2, 2] = torch.tensor([256 - 0.5, 192 - 0.5])  # integer centres
            return matrix

    def global_aligner(dust3r_output, device, mode=GlobalAlignerMode.PointCloudOptimizer, **optim_kw):
        return Scene(dust3r_output["views"], aligned=mode is GlobalAlignerMode.PairViewer)

    return modules(
        "dust3r",
        model={"AsymmetricCroCo3DStereo": AsymmetricCroCo3DStereo},
        inference={"inference": inference},
        image_pairs={"make_pairs": make_pairs},
        cloud_opt={"global_aligner": global_aligner, "GlobalAlignerMode": GlobalAlignerMode, "BasePCOptimizer": Scene},
        **{"utils.image": {"load_images": _DustLoader.load_images}},
    )


def cut3r() -> dict[str, ModuleType]:
    """The modules of CUT3R."""
    wanted = {"img", "ray_map", "true_shape", "idx", "instance", "camera_pose"}
    wanted |= {"img_mask", "ray_mask", "update", "reset"}

    class ARCroco3DStereo(_Network):
        pass

    def inference(groups, model, device, verbose=True):
        answers = []
        for view in groups:
            assert set(view) == wanted and view["ray_map"].isnan().all() and bool(view["img_mask"])
            number = round(float(view["img"].mean()) * 10)
            pose = torch.from_numpy(their_poses()[number])
            encoded = torch.cat([pose[:3, 3], -1.5 * quaternion_from_rotation(pose[:3, :3])])  # any length, any sign
            answers.append(
                {
                    "pts3d_in_self_view": torch.from_numpy(seen(number, _DustLoader.PIXELS)[0])[None],
                    "camera_pose": encoded[None],
                }
            )
        return {"pred": answers, "views": groups}, None

    return modules(
        "dust3r",
        model={"ARCroco3DStereo": ARCroco3DStereo},
        inference={"inference": inference},
        **{"utils.image": {"load_images": _DustLoader.load_images}},
    )


def vggt() -> dict[str, ModuleType]:
    """The modules of VGGT. 120 x 90 becomes 518 x 392: the height is rounded from 388.5, and stretched a little."""
    height, width = 392, 518
    pixels = resized_and_cropped((height, width), (0, 0, width, height))

    def load_and_preprocess_images(image_path_list, mode="crop"):
        assert mode == "crop"
        return torch.stack([torch.full((3, height, width), 0.1 * number_of(path)) for path in image_path_list])

    def views_in(images):
        return (images.mean((-1, -2, -3)) * 10).round().long().tolist()

    class VGGT(_Network):
        def forward(self, images, query_points=None):
            views = views_in(images)
            local, depth = zip(*(seen(view, pixels) for view in views))
            poses = their_poses()
            world = [p @ poses[v, :3, :3].T + poses[v, :3, 3] for v, p in zip(views, local)]
            return {
                "pose_enc": torch.tensor([[[float(view)] * 9 for view in views]]),
                "depth": torch.from_numpy(np.stack(depth))[None, ..., None],
                "world_points": torch.from_numpy(np.stack(world))[None],
            }

        __call__ = forward

    def pose_encoding_to_extri_intri(
        pose_encoding, image_size_hw=None, pose_encoding_type="absT_quaR_FoV", build_intrinsics=True
    ):
        assert tuple(image_size_hw) == (height, width)
        camera_from_world = np.linalg.inv(their_poses())[pose_encoding[0, :, 0].long().numpy(), :3]
        matrix = np.diag([FOCAL[0] * width / SIZE[1], FOCAL[1] * height / SIZE[0], 1.0])
        matrix[:2, 2] = width / 2, height / 2
        intrinsics = torch.from_numpy(matrix).expand(1, len(camera_from_world), 3, 3)
        return torch.from_numpy(camera_from_world)[None], intrinsics

    def unproject_depth_map_to_point_map(depth_map, extrinsics_cam, intrinsics_cam):
        points = []
        for depth, extrinsic, matrix in zip(depth_map[..., 0], extrinsics_cam, intrinsics_cam):
            x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
            rays = np.stack([(x - matrix[0, 2]) / matrix[0, 0], (y - matrix[1, 2]) / matrix[1, 1], np.ones_like(x)], -1)
            points.append((depth[..., None] * rays - extrinsic[:, 3]) @ extrinsic[:, :3])
        return np.stack(points)

    return modules(
        "vggt",
        **{
            "models.vggt": {"VGGT": VGGT},
            "utils.load_fn": {"load_and_preprocess_images": load_and_preprocess_images},
            "utils.pose_enc": {"pose_encoding_to_extri_intri": pose_encoding_to_extri_intri},
            "utils.geometry": {"unproject_depth_map_to_point_map": unproject_depth_map_to_point_map},
        },
    )


def pi3_answer(views: list[int]) -> dict[str, torch.Tensor]:
    """The output of π³ for 120 x 90: on its grid of 574 x 434."""
    pixels = resized_and_cropped((434, 574), (0, 0, 574, 434))
    local = torch.from_numpy(np.stack([seen(view, pixels)[0] for view in views]))[None]
    return {"local_points": local, "camera_poses": torch.from_numpy(their_poses()[views])[None]}


def pi3() -> dict[str, ModuleType]:
    """The modules of π³."""

    def load_images_as_tensor(path="data/truck", interval=1, PIXEL_LIMIT=255000, verbose=True):
        import os

        files = sorted(os.listdir(path))[::interval]
        return torch.stack([torch.full((3, 434, 574), 0.1 * number_of(os.path.join(path, file))) for file in files])

    class Pi3(_Network):
        def forward(self, imgs):
            return pi3_answer((imgs[0].mean((-1, -2, -3)) * 10).round().long().tolist())

        __call__ = forward

    return modules(
        "pi3", **{"models.pi3": {"Pi3": Pi3}, "utils.basic": {"load_images_as_tensor": load_images_as_tensor}}
    )


def modules(package: str, **contents: dict) -> dict[str, ModuleType]:
    """A package of modules, by their full names, as sys.modules has them."""
    made = {name: ModuleType(name) for name in (package, *(f"{package}.{inner}" for inner in contents))}
    made[package].__version__ = "fake"
    for inner, attributes in contents.items():
        vars(made[f"{package}.{inner}"]).update(attributes)
    return made


FAKES = {"dust3r": dust3r, "cut3r": cut3r, "vggt": vggt, "pi3": pi3}
