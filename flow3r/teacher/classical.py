"""The embedded teacher: dense inverse search with forward-backward covisibility. No weights, no GPU.

For tests, small demos and video of small to moderate motion; not a substitute for a learned matcher on wide baselines.
For every pair: flow both ways, started for long strides from the composed flow of the consecutive frames between; the
check of UnFlow (Meister et al. 2018); local correlation of source and warped target; texture, without which noisy
images match a highlight instead of what it lies on; then gates for the pair as a whole, among them SIFT matches, which
know nothing of the flow. Constants without a source were chosen on real clips.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from flow3r.data.transforms import resize_labels
from flow3r.geometry.flow import forward_backward_error
from flow3r.teacher.dense import compose, dense_inverse_search, erode, local_correlation, local_residual, pull, texture
from flow3r.teacher.features import Features, epipolar_inliers, find_features, match_features
from flow3r.types import Flow, FlowLabels

VERSION = 3  # of the algorithm: raise it with every change of the labels


@dataclass(frozen=True)
class ClassicalTeacher:
    """A `Teacher`. Pixels are those of its working size, at most `long_side` long."""

    name: ClassVar[str] = "classical"

    long_side: int = 336
    border: int = 3  # pixels at the source's rim that are never labelled
    erosion: int = 1  # pixels taken off every label's rim
    correlation: float = 0.6  # least local correlation of source and warped target
    texture: float = 0.25  # least variation of the source's gradient; noise of one grey level makes as much
    rounding: float = 0.55  # grey levels; a residual below is of images without noise: less texture tells enough there
    chain_agreement: float = 3.0  # pixels between the composed flow and the one refined from it
    longest_chain: int = 32  # frames; composed flow drifts
    reach: float = 0.15  # of the long side: how far the search is trusted per step
    farthest: float = 0.5  # of the long side: how far any label may point
    covisible_share: tuple[float, float] = (0.25, 0.98)  # false pairs stay below; above, nothing moves
    least_motion: float = 0.01  # of the diagonal: median flow below which a pair is near-static
    feature_agreement: float = 0.75  # share of SIFT matches within `feature_tolerance` of the flow
    feature_tolerance: float = 3.0  # pixels
    least_matches: int = 30  # to judge the agreement
    enough_features: int = 100  # in both images: fewer matches than `least_matches` then mean another scene

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting that changes the labels."""
        return {"version": VERSION, **asdict(self), "covisible_share": list(self.covisible_share)}

    def __call__(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> FlowLabels:
        """Flow for ordered pairs of consecutive frames of one shot, RGB in [0, 1], at the images' size.

        A refused pair has covisibility 0 everywhere and a reason "<kind> (<measured>)".
        """
        size = (images.shape[2], images.shape[3])
        ordered = [(int(i), int(j)) for i, j in pairs.tolist()]
        clip = _Clip(_grey_images(images, self.long_side), ordered, self.longest_chain)
        height, width = clip.greys[0].shape
        displacement = torch.zeros(1, len(ordered), height, width, 2)
        covisible = torch.zeros(1, len(ordered), height, width)
        refusals = []
        for row, (i, j) in enumerate(ordered):
            flow, visible, reason = self._label(clip, i, j)
            refusals.append(reason)
            if not reason:
                displacement[0, row] = torch.from_numpy(flow * (visible > 0)[..., None])
                covisible[0, row] = torch.from_numpy(visible)
        flow = resize_labels(Flow(pairs.cpu()[None], displacement, covisible), size)
        return FlowLabels(flow.to(images.device), tuple(refusals))

    def _label(self, clip: "_Clip", i: int, j: int) -> tuple[np.ndarray | None, np.ndarray | None, str]:
        """Flow and soft covisibility from i to j, or the reason for neither."""
        if i == j:
            return None, None, "same frame"
        if abs(i - j) > self.longest_chain:
            return None, None, f"chain too long ({abs(i - j)} frames)"
        height, width = clip.greys[0].shape
        still = self.least_motion * float(np.hypot(height, width))
        if (median := _median_length(clip.chain(i, j))) < 0.5 * still:
            return None, None, f"near-static (median flow {median:.1f} px)"
        flow = clip.flow(i, j)
        visible, share = self._covisibility(clip, i, j)
        low, high = self.covisible_share
        if share < low:
            return None, None, f"too little covisible ({share:.0%})"
        if (median := _median_length(flow[visible > 0])) < still:
            return None, None, f"near-static (median flow {median:.1f} px)"
        if share > high:
            return None, None, f"nothing hidden ({share:.0%} covisible)"
        return flow, visible, self._feature_refusal(clip, i, j)

    def _covisibility(self, clip: "_Clip", i: int, j: int) -> tuple[Float[np.ndarray, "H W"], float]:
        """exp(-e / 2) of the forward-backward error e where every check holds, else 0; the share of pixels where they
        do, before rims are taken off."""
        flow = clip.flow(i, j)
        forward, backward = torch.from_numpy(flow)[None], torch.from_numpy(clip.flow(j, i))[None]
        error, inside = (answer[0].numpy() for answer in forward_backward_error(forward, backward))
        trusted = (error < 1) & inside & self._within_reach(flow, abs(i - j))
        source, warped = clip.greys[i], pull(clip.greys[j], flow)
        trusted &= local_correlation(source, warped) > self.correlation
        trusted &= (clip.texture(i) > self.texture) | (local_residual(source, warped) < self.rounding)
        trusted &= np.linalg.norm(flow - clip.chain(i, j), axis=-1) < self.chain_agreement
        labelled = erode(trusted, self.erosion)
        rim = np.ones_like(trusted)
        rim[self.border : -self.border, self.border : -self.border] = False
        return np.where(labelled & ~rim, np.exp(-error / 2), 0).astype(np.float32), float(trusted.mean())

    def _within_reach(self, flow: Float[np.ndarray, "H W 2"], steps: int) -> Bool[np.ndarray, "H W"]:
        reach = min(self.reach * steps, self.farthest) * max(flow.shape[:2])
        return np.linalg.norm(flow, axis=-1) < reach

    def _feature_refusal(self, clip: "_Clip", i: int, j: int) -> str:
        """Why SIFT matches speak against the flow from i to j; "" if they do not, or if there are too few features."""
        matches = match_features(clip.features(i), clip.features(j))
        features = min(len(clip.features(i).points), len(clip.features(j).points))
        if len(matches) < self.least_matches:
            few = features >= self.enough_features
            return f"too few feature matches ({len(matches)} of {features})" if few else ""
        inliers = epipolar_inliers(matches)
        if inliers is None:
            return "no epipolar geometry (features)"
        x, y = np.rint(inliers[:, 0]).astype(int).T
        flow = clip.flow(i, j)
        height, width = flow.shape[:2]
        error = np.linalg.norm(
            inliers[:, 1] - inliers[:, 0] - flow[y.clip(0, height - 1), x.clip(0, width - 1)], axis=-1
        )
        agreement = float((error < self.feature_tolerance).mean())
        return f"features disagree ({agreement:.0%} within reach)" if agreement < self.feature_agreement else ""


class _Clip:
    """The frames of one shot with what their pairs share: flow between neighbours, its compositions, features.

    Chains are composed once per source, outwards, and kept for the pairs that were asked for and their inverses.
    """

    def __init__(self, greys: list[UInt8[np.ndarray, "H W"]], pairs: Iterable[tuple[int, int]], longest_chain: int):
        self.greys = greys
        self._pairs = {pair for i, j in pairs for pair in ((i, j), (j, i)) if 0 < abs(i - j) <= longest_chain}
        self._flows: dict[tuple[int, int], np.ndarray] = {}
        self._features: dict[int, Features] = {}
        self._textures: dict[int, np.ndarray] = {}

    def features(self, i: int) -> Features:
        if i not in self._features:
            self._features[i] = find_features(self.greys[i])
        return self._features[i]

    def texture(self, i: int) -> Float[np.ndarray, "H W"]:
        if i not in self._textures:
            self._textures[i] = texture(self.greys[i])
        return self._textures[i]

    def chain(self, i: int, j: int) -> Float[np.ndarray, "H W 2"]:
        """The composed flow of the consecutive frames from i to j; between neighbours the flow itself."""
        return self._chains[i, j]

    def flow(self, i: int, j: int) -> Float[np.ndarray, "H W 2"]:
        """The flow from i to j, refined from the chain."""
        if abs(i - j) == 1:
            return self._chains[i, j]
        if (i, j) not in self._flows:
            self._flows = {key: value for key, value in self._flows.items() if set(key) == {i, j}}  # only this pair's
            self._flows[i, j] = dense_inverse_search(self.greys[i], self.greys[j], self._chains[i, j])
        return self._flows[i, j]

    @cached_property
    def _chains(self) -> dict[tuple[int, int], np.ndarray]:
        chains = {}
        for source in sorted({i for i, _ in self._pairs}):
            for direction in (1, -1):
                targets = {j for i, j in self._pairs if i == source and (j - i) * direction > 0}
                flow, here = None, source
                for _ in range(max((abs(j - source) for j in targets), default=0)):
                    step = self._step(here, here + direction)
                    flow, here = step if flow is None else compose(flow, step), here + direction
                    if here in targets:
                        chains[source, here] = flow
        self._steps.clear()
        return chains

    @cached_property
    def _steps(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    def _step(self, i: int, j: int) -> Float[np.ndarray, "H W 2"]:
        if (i, j) not in self._steps:
            self._steps[i, j] = dense_inverse_search(self.greys[i], self.greys[j])
        return self._steps[i, j]


def _grey_images(images: Float[Tensor, "N 3 H W"], long_side: int) -> list[UInt8[np.ndarray, "h w"]]:
    import cv2

    height, width = images.shape[2:]
    scale = min(1.0, long_side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    greys = []
    for image in images:
        rgb = (image.detach().movedim(0, -1).clamp(0, 1) * 255).round().byte().cpu().numpy()
        grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        greys.append(grey if scale == 1 else cv2.resize(grey, size, interpolation=cv2.INTER_AREA))
    return greys


def _median_length(flow: Float[np.ndarray, "*s 2"]) -> float:
    return float(np.median(np.linalg.norm(flow.reshape(-1, 2), axis=-1))) if flow.size else 0.0
