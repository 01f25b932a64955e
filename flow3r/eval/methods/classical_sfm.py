"""The classical baseline, which has learnt nothing: SIFT, MAGSAC, incremental reconstruction, interpolated depth.

What it cannot register stays NaN and is scored as a miss. Cameras are pinholes with a centred principal point; frames
of one size share a focal length, first guessed as COLMAP does, then refined with the points.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from flow3r.data.frame import Frame
from flow3r.data.transforms import fit_intrinsics
from flow3r.errors import InputError
from flow3r.eval.methods import Pairs, images_on_grid
from flow3r.eval.methods.classical_depth import interpolated_depth
from flow3r.eval.samples import Sample
from flow3r.geometry.camera import unproject
from flow3r.teacher.features import Features, find_features, match_indices

VERSION = 1  # of the algorithm: raise it with every change of the answers
PATCH_AREA = 14 * 14  # pixels of a token, in which `images_on_grid` counts


@dataclass(frozen=True)
class Tracked:
    """What was solved for N views. NaN poses: not registered. Intrinsics in pixels of the frames."""

    world_from_camera: Float[np.ndarray, "N 4 4"]
    intrinsics: Float[np.ndarray, "N 3 3"]
    points: list[Float[np.ndarray, "_ 3"]]  # of each view, in the world
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def registered(self) -> Bool[np.ndarray, "N"]:
        return np.isfinite(self.world_from_camera).all((1, 2))


@dataclass(frozen=True)
class ClassicalMethod:
    """A `Method`. The same frames give the same sample: all drawing is seeded, all solving is on one thread."""

    name: ClassVar[str] = "classical"

    long_side: int = 1600  # pixels that features are sought at; COLMAP's own guidance for feature extraction
    features: int = 4096  # of each frame, the strongest
    contrast: float = 0.01  # of a feature; half of what COLMAP asks for: few frames have few features to share
    ratio: float = 0.8  # of the two nearest descriptors: Lowe 2004, COLMAP's default
    threshold: float = 1.5  # pixels at `long_side`, from the epipolar line; ours
    homography: float = 0.8  # of the inliers of the fundamental matrix: COLMAP's mark of a plane or a pure rotation
    least_matches: int = 15  # verified, of a pair: COLMAP's default
    focal: float = 1.2  # of the long side: COLMAP's first guess
    tokens: int = 1000  # of the answer's grid, as models of the π³ family see; fewer where frames are smaller
    far: int = 12  # frames: pairs further apart are matched at gaps of powers of two only

    @property
    def fingerprint(self) -> str:
        """Every setting, and the versions of the libraries that answer."""
        import cv2

        said = {"version": VERSION, "opencv": cv2.__version__, "pycolmap": _pycolmap().__version__, **asdict(self)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def __call__(self, frames: Sequence[Frame], pairs: Pairs) -> Sample:
        """Flow is not answered: whoever needs some has points and cameras. Raises InputError without pycolmap."""
        smallest = min(frame.image.shape[0] * frame.image.shape[1] for frame in frames)
        most = min(self.tokens, max(4, smallest // PATCH_AREA))
        images, grid_from_image = images_on_grid(frames, (max(1, round(0.7 * most)), most))
        tracked = self.track(frames)
        intrinsics = np.stack([fit_intrinsics(k, a) for k, a in zip(tracked.intrinsics, grid_from_image)])
        size = (images.shape[-2], images.shape[-1])
        depth = torch.full((len(frames), *size), torch.nan)
        for view in np.flatnonzero(tracked.registered):
            known = (tracked.points[view], intrinsics[view], tracked.world_from_camera[view])
            depth[view] = interpolated_depth(*map(torch.from_numpy, known), size)
        return Sample(
            frames=np.arange(len(frames)),
            world_from_camera=tracked.world_from_camera,
            grid_from_image=grid_from_image,
            local_points=unproject(depth, torch.from_numpy(intrinsics).float()).numpy(),
            intrinsics=np.where(tracked.registered[:, None, None], intrinsics, np.nan),
            facts=tracked.facts,
        )

    def track(self, frames: Sequence[Frame]) -> Tracked:
        """Cameras and sparse points of as many frames as one reconstruction holds."""
        features = [self._features(frame.image) for frame in frames]
        tracked = self.solve(
            [found.points for found in features],
            self._matched(features),
            [frame.image.shape[:2] for frame in frames],
        )
        return replace(tracked, facts={"features": [len(found.points) for found in features], **tracked.facts})

    def solve(
        self,
        points: list[Float[np.ndarray, "_ 2"]],
        matches: Mapping[tuple[int, int], Int[np.ndarray, "_ 2"]],
        sizes: list[tuple[int, int]],
    ) -> Tracked:
        """Cameras and points of N frames of `sizes` (H, W) from points of each, in its pixels, and from matches of
        pairs i < j of frames, as indices of the points of both, however these were found."""
        guesses = np.stack([_guess(size, self.focal) for size in sizes])
        verified = dict(self._verified(points, matches, sizes))
        if len(sizes) == 2:
            solved = _two_views(points, verified, guesses, self.threshold * max(map(max, sizes)) / self.long_side)
        else:
            solved = _incremental(points, verified, guesses, sizes)
        count = int(solved.registered.sum())
        reason = {} if count else {"unregistered": "no pair of frames could be reconstructed"}
        return replace(solved, facts={"pairs verified": len(verified), **solved.facts, "registered": count, **reason})

    def _features(self, image: np.ndarray) -> Features:
        """RootSIFT (Arandjelović and Zisserman 2012), positions in pixels of the frame with half-integer centres."""
        import cv2

        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        scale = min(1.0, self.long_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        found = find_features(grey, self.features, self.contrast)
        # OpenCV's SIFT reports a quarter of a pixel beyond its integer centres.
        points = (found.points.astype(np.float64) + 0.25) * np.array([width / size[0], height / size[1]])
        total = np.maximum(found.descriptors.sum(1, keepdims=True), 1e-6)
        return Features(points.astype(np.float32), np.sqrt(found.descriptors / total))

    def _matched(self, features: list[Features]) -> dict[tuple[int, int], Int[np.ndarray, "_ 2"]]:
        matches = {}
        for i, j in combinations(range(len(features)), 2):
            gap = j - i
            if gap <= self.far or not gap & (gap - 1):
                matches[i, j] = match_indices(features[i], features[j], self.ratio)
        return matches

    def _verified(
        self,
        points: list[np.ndarray],
        matches: Mapping[tuple[int, int], np.ndarray],
        sizes: list[tuple[int, int]],
    ) -> Iterator[tuple[tuple[int, int], "Verified"]]:
        """Pairs i < j of frames that one epipolar geometry holds together."""
        for i, j in sorted(matches):
            # Of the larger frame's pixels, which the points of both are given in.
            threshold = self.threshold * max(1.0, max(*sizes[i], *sizes[j]) / self.long_side)
            verified = _verify(points[i], points[j], matches[i, j], threshold, self.homography)
            if verified is not None and len(verified.matches) >= self.least_matches:
                yield (i, j), verified


@dataclass(frozen=True)
class Verified:
    """The matches of a pair that its fundamental matrix explains; `flat`: a homography explains nearly all as well."""

    matches: Int[np.ndarray, "m 2"]
    fundamental: Float[np.ndarray, "3 3"]
    homography: Float[np.ndarray, "3 3"] | None
    flat: bool


def _verify(
    a: np.ndarray, b: np.ndarray, matches: Int[np.ndarray, "m 2"], threshold: float, share: float
) -> Verified | None:
    """MAGSAC++ (Barath et al. 2020), which draws from a seed of its own; None where it finds nothing."""
    import cv2

    if len(matches) < 8:
        return None
    source, target = a[matches[:, 0]], b[matches[:, 1]]
    try:
        fundamental, inlier = cv2.findFundamentalMat(source, target, cv2.USAC_MAGSAC, threshold, 0.9999, 10_000)
        homography, flat = cv2.findHomography(source, target, cv2.USAC_MAGSAC, threshold, None, 10_000, 0.9999)
    except cv2.error:  # raised where the points hardly move
        return None
    if fundamental is None or fundamental.shape != (3, 3) or inlier is None:
        return None
    kept = inlier.ravel() > 0
    on_plane = 0 if flat is None else int((flat.ravel() > 0).sum())
    return Verified(matches[kept], fundamental, homography, bool(on_plane > share * kept.sum()))


def _guess(size: tuple[int, int], focal: float) -> Float[np.ndarray, "3 3"]:
    height, width = size
    length = focal * max(size)
    return np.array([[length, 0, width / 2], [0, length, height / 2], [0, 0, 1.0]])


def _nothing(guesses: np.ndarray) -> Tracked:
    return Tracked(np.full((len(guesses), 4, 4), np.nan), guesses, [np.zeros((0, 3))] * len(guesses))


def _two_views(
    points: list[np.ndarray], verified: dict[tuple[int, int], Verified], guesses: np.ndarray, threshold: float
) -> Tracked:
    """The essential matrix of the guessed focal lengths, which two views alone do not tell, and its triangulation."""
    import cv2

    if (0, 1) not in verified:
        return _nothing(guesses)
    matches = verified[0, 1].matches
    rays = [(points[view][matches[:, view]] - guesses[view, :2, 2]) / guesses[view, 0, 0] for view in (0, 1)]
    reach = max(threshold, 0.5) / guesses[:, 0, 0].mean()
    essential, _ = cv2.findEssentialMat(*rays, np.eye(3), cv2.USAC_MAGSAC, 0.9999, reach)
    if essential is None or essential.shape != (3, 3):
        return _nothing(guesses)
    _, rotation, translation, before = cv2.recoverPose(essential, *rays, np.eye(3))
    second_from_first = np.eye(4)
    second_from_first[:3] = np.hstack([rotation, translation])
    kept = before.ravel() > 0
    homogeneous = cv2.triangulatePoints(np.eye(4)[:3], second_from_first[:3], rays[0][kept].T, rays[1][kept].T)
    solved = (homogeneous[:3] / np.where(homogeneous[3] == 0, 1e-12, homogeneous[3])).T.astype(np.float64)
    poses = np.stack([np.eye(4), np.linalg.inv(second_from_first)])
    return Tracked(poses, guesses, [solved, solved], {"solver": "essential matrix"})


def _incremental(
    points: list[np.ndarray],
    verified: dict[tuple[int, int], Verified],
    guesses: np.ndarray,
    sizes: list[tuple[int, int]],
) -> Tracked:
    """COLMAP's incremental mapping from the verified pairs: of its reconstructions the one with most frames."""
    pycolmap = _pycolmap()
    pycolmap.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder, _quiet(pycolmap):
        path = Path(folder) / "database.db"
        _write_database(pycolmap, path, points, verified, guesses, sizes)
        options = _mapping_options(pycolmap)
        found = pycolmap.incremental_mapping(path, folder, Path(folder) / "sparse", options) if verified else {}
    if not found:
        return _nothing(guesses)
    best = max(found.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    solved, intrinsics = _nothing(guesses), guesses.copy()
    for view in range(len(guesses)):
        if best.exists_camera(_camera_of(sizes)[view]):
            intrinsics[view] = best.cameras[_camera_of(sizes)[view]].calibration_matrix()
    for image in (best.images[number] for number in best.reg_image_ids()):
        view = image.image_id - 1
        solved.world_from_camera[view] = np.vstack([image.cam_from_world().inverse().matrix(), [0, 0, 0, 1]])
        seen = [best.points3D[point.point3D_id].xyz for point in image.points2D if point.has_point3D()]
        solved.points[view] = np.array(seen).reshape(-1, 3)
    facts = {
        "solver": "incremental",
        "points": best.num_points3D(),
        "reprojection error": round(best.compute_mean_reprojection_error(), 4),
    }
    return replace(solved, intrinsics=intrinsics, facts=facts)


def _camera_of(sizes: list[tuple[int, int]]) -> list[int]:
    """The number of each frame's camera: one for all frames of a size, counted from 1."""
    order = list(dict.fromkeys(sizes))
    return [order.index(size) + 1 for size in sizes]


def _write_database(
    pycolmap: Any,
    path: Path,
    points: list[np.ndarray],
    verified: dict[tuple[int, int], Verified],
    guesses: np.ndarray,
    sizes: list[tuple[int, int]],
) -> None:
    """Cameras, keypoints and verified pairs as COLMAP reads them; its pixel centres are half-integer, as ours are."""
    kinds = pycolmap.TwoViewGeometryConfiguration
    with pycolmap.Database.open(path) as database:
        for view, number in enumerate(_camera_of(sizes)):
            height, width = sizes[view]
            if not database.exists_camera(number):
                values = guesses[view, [0, 0, 1], [0, 2, 2]]
                database.write_camera(
                    pycolmap.Camera(
                        camera_id=number, model="SIMPLE_PINHOLE", width=width, height=height, params=values
                    ),
                    use_camera_id=True,
                )
            image = pycolmap.Image(name=f"{view:06d}", camera_id=number, image_id=view + 1)
            database.write_image(image, use_image_id=True)
            database.write_keypoints(view + 1, points[view])
        for (i, j), pair in verified.items():
            matches = pair.matches.astype(np.uint32)
            geometry = pycolmap.TwoViewGeometry(
                config=kinds.PLANAR_OR_PANORAMIC if pair.flat else kinds.UNCALIBRATED,
                F=pair.fundamental,
                H=np.eye(3) if pair.homography is None else pair.homography,
                inlier_matches=matches,
            )
            database.write_matches(i + 1, j + 1, matches)
            database.write_two_view_geometry(i + 1, j + 1, geometry)


def _mapping_options(pycolmap: Any) -> Any:
    """COLMAP's own, for few frames: models of two images and tracks of two views count, and nothing is random."""
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = 2
    options.extract_colors = False
    options.num_threads = options.mapper.num_threads = 1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = 0
    options.mapper.abs_pose_min_num_inliers = 15
    options.triangulation.ignore_two_view_tracks = False
    return options


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Within, pycolmap tells errors alone."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = pycolmap.logging.ERROR.value
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise InputError(f"the classical baseline needs pycolmap ({error}): pip install 'flow3r[colmap]'") from error
    return pycolmap
