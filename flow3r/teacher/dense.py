"""Dense matching with OpenCV: flow between two grey images, composition of flows, local correlation, texture.

Flows here are numpy arrays (H, W, 2) in pixels, images uint8 (H, W). No result depends on OpenCV's number of threads.
"""

import numpy as np
from jaxtyping import Float, UInt8


def dense_inverse_search(
    source: UInt8[np.ndarray, "H W"],
    target: UInt8[np.ndarray, "H W"],
    initial: Float[np.ndarray, "H W 2"] | None = None,
) -> Float[np.ndarray, "H W 2"]:
    """Flow from source to target by DIS (Kroeger et al. 2016), OpenCV's MEDIUM preset, from an optional first guess."""
    import cv2

    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(source, target, None if initial is None else initial.copy())  # it writes into its guess


def pull(image: np.ndarray, flow: Float[np.ndarray, "H W 2"]) -> np.ndarray:
    """`image` (H, W[, C]) read, bilinearly, where `flow` leads from every pixel; beyond it the nearest border value."""
    import cv2

    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def compose(
    middle_from_source: Float[np.ndarray, "H W 2"], target_from_middle: Float[np.ndarray, "H W 2"]
) -> Float[np.ndarray, "H W 2"]:
    """The flow that follows the first and then the second: f(x) + g(x + f(x))."""
    return middle_from_source + pull(target_from_middle, middle_from_source)


def local_correlation(
    a: UInt8[np.ndarray, "H W"], b: UInt8[np.ndarray, "H W"], window: int = 9
) -> Float[np.ndarray, "H W"]:
    """Normalised cross-correlation of the `window` x `window` neighbourhoods: blind to gain and offset.

    Half a grey level of noise is assumed, so that flat neighbourhoods, which show nothing, correlate with nothing.
    """
    import cv2

    a, b = a.astype(np.float32), b.astype(np.float32)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values, cv2.CV_32F, (window, window), borderType=cv2.BORDER_REFLECT)

    mean_a, mean_b = mean(a), mean(b)
    noise = 0.25
    variance_a = np.maximum(mean(a * a) - mean_a**2, 0) + noise
    variance_b = np.maximum(mean(b * b) - mean_b**2, 0) + noise
    return (mean(a * b) - mean_a * mean_b) / np.sqrt(variance_a * variance_b)


def local_residual(
    a: UInt8[np.ndarray, "H W"], b: UInt8[np.ndarray, "H W"], window: int = 9
) -> Float[np.ndarray, "H W"]:
    """Standard deviation, in grey levels, of a - b in the `window` x `window` neighbourhoods: blind to an offset.

    Two images of the same, each rounded to whole levels, leave 0.41.
    """
    import cv2

    difference = a.astype(np.float32) - b.astype(np.float32)
    mean, mean_square = (
        cv2.boxFilter(values, cv2.CV_32F, (window, window), borderType=cv2.BORDER_REFLECT)
        for values in (difference, difference * difference)
    )
    return np.sqrt(np.maximum(mean_square - mean**2, 0))


def texture(image: UInt8[np.ndarray, "H W"], window: int = 15) -> Float[np.ndarray, "H W"]:
    """How much the grey level's gradient varies about each pixel, in its weakest direction: squared levels per pixel.

    The smaller eigenvalue of the gradient's covariance in the `window` x `window` neighbourhood. A ramp, such as the
    shading of a smooth wall, has none: it matches wherever it is put. Noise of one grey level alone gives 0.23.
    """
    import cv2

    grey = image.astype(np.float32)
    dx, dy = (cv2.Scharr(grey, cv2.CV_32F, *order, scale=1 / 32) for order in ((1, 0), (0, 1)))

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        mean_a, mean_b, mean_ab = (
            cv2.boxFilter(values, cv2.CV_32F, (window, window), borderType=cv2.BORDER_REFLECT)
            for values in (a, b, a * b)
        )
        return mean_ab - mean_a * mean_b

    xx, xy, yy = covariance(dx, dx), covariance(dx, dy), covariance(dy, dy)
    return 0.5 * (xx + yy - np.sqrt((xx - yy) ** 2 + 4 * xy**2))


def erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    """`mask` (bool) without what lies within `pixels` of its outside."""
    import cv2

    side = 2 * pixels + 1
    kernel = np.ones((side, side), dtype=np.uint8)
    return cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(bool)
