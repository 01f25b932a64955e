"""Photometric augmentation: bounds, reproducibility, independence of views, no bias, and JPEG as a codec does it."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from made_media import texture

from flow3r.config import AugmentConfig
from flow3r.data.augment import augment, blur, compress, jitter_colour
from flow3r.types import Flow, Views

NOTHING = AugmentConfig((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), compressed_share=0, blurred_share=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_image(height: int = 48, width: int = 80) -> torch.Tensor:
    """A natural-looking image (3 H W), levels of 8 bits."""
    image = cv2.GaussianBlur(texture(height, width, 1), (0, 0), 2)
    image = cv2.normalize(image, None, 10, 245, cv2.NORM_MINMAX)
    return torch.from_numpy(image).movedim(-1, 0).float() / 255


def views_of(image: torch.Tensor, scenes: int = 2, views: int = 3) -> Views:
    height, width = image.shape[1:]
    pairs = torch.tensor([[[0, 1]]]).expand(scenes, 1, 2)
    flow = Flow(pairs, torch.randn(scenes, 1, height, width, 2), torch.ones(scenes, 1, height, width))
    return Views(
        image.expand(scenes, views, 3, height, width),
        depth=torch.rand(scenes, views, height, width),
        intrinsics=torch.rand(scenes, views, 3, 3),
        world_from_camera=torch.rand(scenes, views, 4, 4),
        flow=flow,
    )


def jitter(image: torch.Tensor, **factors: float) -> torch.Tensor:
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "gamma": 1.0, "hue": 0.0}
    return jitter_colour(image[None], **{name: torch.tensor([x]) for name, x in (neutral | factors).items()})[0]


def luma(image: torch.Tensor) -> torch.Tensor:
    return torch.tensor([0.299, 0.587, 0.114]) @ image.flatten(-2)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_only_images_change_and_the_original_does_not():
    views = views_of(smooth_image())
    before = views.images.clone()
    changed = augment(views, AugmentConfig(), generator())
    assert views.images.equal(before) and changed.images.shape == before.shape
    for field in dataclasses.fields(views):
        if field.name != "images":
            assert getattr(changed, field.name) is getattr(views, field.name)


def test_images_depend_on_the_generator_alone_and_every_view_draws_for_itself():
    views = views_of(smooth_image())  # six times the same image
    torch.manual_seed(1)
    first = augment(views, AugmentConfig(), generator(3)).images
    torch.manual_seed(2)
    assert first.equal(augment(views, AugmentConfig(), generator(3)).images)
    assert not first.equal(augment(views, AugmentConfig(), generator(4)).images)
    flat = first.flatten(0, 1)
    assert all(not a.equal(b) for k, a in enumerate(flat) for b in flat[:k])


def test_how_many_are_worked_on_together_does_not_matter(monkeypatch):
    views = views_of(smooth_image())
    together = augment(views, AugmentConfig(), generator()).images
    monkeypatch.setattr("flow3r.data.augment._PIXELS_AT_ONCE", 1)
    torch.testing.assert_close(augment(views, AugmentConfig(), generator()).images, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(48, 80), (14, 14), (33, 51)])
def test_images_stay_in_bounds_whatever_is_drawn(size: tuple[int, int]):
    extreme = torch.rand(4, 6, 3, *size, generator=generator()).round()  # black, white and pure colours
    strong = AugmentConfig((0, 3), (0, 3), (0, 3), (0.2, 5), (-0.5, 0.5), 1.0, (1, 100), 1.0, (0.01, 1))
    changed = augment(Views(extreme), strong, generator()).images
    assert changed.isfinite().all() and changed.min() >= 0 and changed.max() <= 1


def test_no_strength_is_the_identity():
    views = views_of(smooth_image())
    torch.testing.assert_close(augment(views, NOTHING, generator()).images, views.images, atol=1e-5, rtol=0)


def test_colour_changes_are_what_their_names_say():
    image = smooth_image() * 0.5 + 0.2
    torch.testing.assert_close(jitter(image, brightness=0.8), image * 0.8)
    torch.testing.assert_close(jitter(image, gamma=1.2), image**1.2)
    flat, mean = jitter(image, contrast=0.7), luma(image).mean()
    torch.testing.assert_close(flat, 0.7 * image + 0.3 * mean)
    grey = jitter(image, saturation=0.0)
    torch.testing.assert_close(grey, luma(image).view(1, *image.shape[1:]).expand(3, -1, -1))
    turned = jitter(image, hue=0.1)
    torch.testing.assert_close(luma(turned), luma(image))
    torch.testing.assert_close(jitter(turned, hue=-0.1), image)
    red = jitter(torch.tensor([0.6, 0.3, 0.3]).view(3, 1, 1), hue=0.1).flatten()
    assert red[0] > red[1] > red[2]  # towards yellow, as in HSV


def test_factors_fill_their_ranges():
    image = torch.full((3, 4, 4), 0.5)
    views = Views(image.expand(1, 4000, 3, 4, 4))
    brightness = augment(views, dataclasses.replace(NOTHING, brightness=(0.7, 1.3)), generator()).images[0, :, 0, 0, 0]
    factors = brightness / 0.5
    assert 0.7 <= factors.min() < 0.71 and 1.29 < factors.max() <= 1.3 + 1e-6
    assert factors.mean() == pytest.approx(1, abs=0.01) and factors.std() == pytest.approx(0.6 / 12**0.5, rel=0.05)


def test_brightness_is_unbiased():
    views = views_of(smooth_image(28, 42) * 0.4 + 0.3, scenes=20, views=20)
    changed = augment(views, AugmentConfig(), generator()).images
    assert changed.mean() == pytest.approx(float(views.images.mean()), rel=0.02)


def test_shares_of_compression_and_blur_are_kept():
    views = views_of(smooth_image(32, 48), scenes=20, views=20)
    for name in ("compressed_share", "blurred_share"):
        images = augment(views, dataclasses.replace(NOTHING, **{name: 0.25}), generator()).images
        share = (images - views.images).abs().amax((2, 3, 4)).gt(2e-3).float().mean()
        assert 0.17 <= share <= 0.31, name


@pytest.mark.parametrize("quality", [20, 50, 90])
def test_compression_agrees_with_a_jpeg_codec(quality: int):
    """To about the rounding of its 8 bits."""
    image = smooth_image(48, 77)
    ours = compress(image[None], torch.tensor([quality]))[0]
    encoded = cv2.imencode(
        ".jpg", (image * 255).round().byte().movedim(0, -1).numpy()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255
    theirs = torch.from_numpy(decoded.copy()).movedim(-1, 0)
    assert psnr(ours, image) == pytest.approx(psnr(theirs, image), abs=0.5)
    assert psnr(ours, theirs) > 44


def test_every_image_is_compressed_at_its_own_quality():
    images = smooth_image().expand(3, -1, -1, -1)
    together = compress(images, torch.tensor([20, 60, 99]))
    for image, quality in zip(together, (20, 60, 99)):
        torch.testing.assert_close(image, compress(images[:1], torch.tensor([quality]))[0], atol=1e-4, rtol=0)
    errors = [psnr(image, images[0]) for image in together]
    assert errors == sorted(errors)


@pytest.mark.parametrize("upwards", ["bicubic", "bilinear"])
def test_no_pixel_moves(upwards: str):
    """The centroid of a spot stays, under blur and under compression."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    spot = torch.exp(-((x - 31.3) ** 2 + (y - 17.6) ** 2) / 18).expand(3, -1, -1)
    for changed in (blur(spot, 0.3, upwards), compress(spot[None], torch.tensor([30]))[0]):
        mass = changed[0] * (spot[0] > 0.01)
        assert float((mass * x).sum() / mass.sum()) == pytest.approx(31.3, abs=0.1)
        assert float((mass * y).sum() / mass.sum()) == pytest.approx(17.6, abs=0.1)


def test_a_smaller_scale_blurs_more():
    image = smooth_image()
    detail = [float(blur(image, scale, "bilinear").diff(dim=2).abs().mean()) for scale in (1.0, 0.6, 0.25)]
    assert detail == sorted(detail, reverse=True) and blur(image, 1.0, "bicubic").sub(image).abs().max() < 1e-5
