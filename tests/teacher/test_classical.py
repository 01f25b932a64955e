"""The embedded teacher against motions that are known, and pairs that it must refuse."""

import json

import cv2
import numpy as np
import pytest
import torch
from made_media import texture

from flow3r.teacher import TEACHERS
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.types import FlowLabels

SIZE = (120, 180)
BOTH_WAYS = torch.tensor([[0, 1], [1, 0]])


def view(canvas: np.ndarray, view_from_canvas: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """What a camera sees of a flat canvas; the matrix maps pixel coordinates with half-integer centres."""
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    integer_centres = np.linalg.inv(shift) @ view_from_canvas @ shift
    return cv2.warpPerspective(canvas, integer_centres, (size[1], size[0]), flags=cv2.INTER_CUBIC)


def moved(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def stack(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def true_flow(target_from_source: np.ndarray, size: tuple[int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    target = target_from_source @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    target = (target[:2] / target[2]).T.reshape(*size, 2)
    inside = ((target >= 0) & (target < size[::-1])).all(-1)
    return torch.from_numpy(target - np.stack([x, y], -1)).float(), torch.from_numpy(inside)


def errors(labels: FlowLabels, row: int, truth: torch.Tensor) -> torch.Tensor:
    covisible = labels.flow.covisible[0, row] > 0
    return (labels.flow.displacement[0, row] - truth).norm(dim=-1)[covisible]


TURN = np.array([[0.98, -0.06, 8.3], [0.05, 1.03, -4.6], [2e-4, -1e-4, 1.0]])


@pytest.mark.parametrize("second_from_first", [moved(7.3, -4.6), moved(-12.5, 2.0), TURN], ids=["shift", "far", "turn"])
def test_known_motion_is_found_to_a_fraction_of_a_pixel(second_from_first):
    canvas = texture(260, 360, seed=1)
    first = moved(-80, -60)
    images = stack([view(canvas, first), view(canvas, second_from_first @ first)])
    labels = ClassicalTeacher()(images, BOTH_WAYS)
    assert labels.refusals == ("", "")
    for row, target_from_source in enumerate((second_from_first, np.linalg.inv(second_from_first))):
        truth, inside = true_flow(target_from_source)
        error = errors(labels, row, truth)
        assert error.median() < 0.1
        assert error.quantile(0.95) < 0.4
        covisible = labels.flow.covisible[0, row]
        assert (covisible[~inside] > 0).float().mean() < 0.05
        assert (covisible[inside] > 0).float().mean() > 0.75
        assert covisible.max() <= 1


def test_what_something_else_hides_is_not_labelled():
    """A square moves over a moving background: what it covers in the other image has no match."""
    background, square = texture(260, 360, seed=1), texture(60, 60, seed=2)
    images, masks = [], []
    for k, left in enumerate((50, 62)):
        image = view(background, moved(-80 + 3 * k, -60)).copy()
        image[30:90, left : left + 60] = square
        mask = np.zeros(SIZE, dtype=bool)
        mask[30:90, left : left + 60] = True
        images.append(image)
        masks.append(torch.from_numpy(mask))
    labels = ClassicalTeacher()(stack(images), BOTH_WAYS)
    assert labels.refusals == ("", "")
    covisible, displacement = labels.flow.covisible[0, 0] > 0, labels.flow.displacement[0, 0]
    target_is_square = torch.roll(masks[1], -3, dims=1)  # where the background moves by 3
    hidden = ~masks[0] & target_is_square
    hidden[:, -6:] = False
    assert hidden.sum() > 400
    assert (covisible & hidden).sum() / hidden.sum() < 0.1
    for region, speed in ((masks[0], 12.0), (~masks[0] & ~hidden, 3.0)):
        known = region & covisible
        assert known.sum() / region.sum() > 0.6
        assert (displacement[known] - torch.tensor([speed, 0.0])).norm(dim=-1).median() < 0.1


def test_a_highlight_that_moves_over_a_plain_wall_is_no_label():
    """Its soft rim looks the same in both images but for noise, so that every other check takes it for the wall."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    noise = np.random.default_rng(0).normal(scale=0.7, size=(2, *SIZE))
    canvas, images, walls = texture(260, 360, seed=1), [], []
    for step in (0, 1):
        image, wall = view(canvas, moved(-80 + 3 * step, -60)).copy(), np.zeros(SIZE, dtype=bool)
        wall[20:100, 40 + 3 * step : 140 + 3 * step] = True
        light = 110 + 90 * np.exp(-((x - 90 + 7 * step) ** 2 + (y - 60) ** 2) / (2 * 40**2))
        image[wall] = np.rint(light + noise[step])[wall][:, None]
        images.append(image)
        walls.append(torch.from_numpy(cv2.erode(wall.astype(np.uint8), np.ones((25, 25))) > 0))
    with_texture, without = (ClassicalTeacher(texture=least)(stack(images), BOTH_WAYS[:1]) for least in (0.25, -1.0))
    assert with_texture.refusals == without.refusals == ("",)
    share = [(labels.flow.covisible[0, 0] > 0)[walls[0]].float().mean() for labels in (with_texture, without)]
    assert share[0] < 0.02 < 0.3 < share[1]
    beside = ~torch.from_numpy(cv2.dilate(walls[0].byte().numpy(), np.ones((45, 45))) > 0)
    beside[:, -6:] = beside[:3] = beside[-3:] = beside[:, :3] = False
    known = (with_texture.flow.covisible[0, 0] > 0) & beside
    assert known.sum() / beside.sum() > 0.8


@pytest.mark.parametrize(("noise", "least", "most"), [(0.0, 0.6, 1.0), (0.7, 0.0, 0.05)])
def test_faint_shading_is_labelled_where_there_is_no_noise_and_only_there(noise, least, most):
    canvas = cv2.GaussianBlur(texture(260, 360, seed=1)[..., 0].astype(np.float64), (0, 0), 8)
    faint, draws = 120 + 0.4 * (canvas - 120), np.random.default_rng(0)
    images = [view(faint, moved(-80 + 3 * k, -60)) + draws.normal(scale=noise, size=SIZE) for k in (0, 1)]
    images = stack([np.repeat(np.rint(image)[..., None], 3, axis=2).astype(np.uint8) for image in images])
    labels = ClassicalTeacher(covisible_share=(0.0, 1.0))(images, BOTH_WAYS[:1])
    assert labels.refusals == ("",)
    assert least <= (labels.flow.covisible > 0).float().mean() <= most
    assert errors(labels, 0, true_flow(moved(3, 0))[0]).median() < 0.2


def panning(count: int, step: float, size: tuple[int, int] = SIZE) -> tuple[torch.Tensor, np.ndarray]:
    canvas = texture(size[0] + 40, round(size[1] + count * step + 40), seed=3)
    return stack([view(canvas, moved(-20 - step * k, -20), size) for k in range(count)]), moved(-step, 0)


def test_chaining_reaches_where_a_direct_search_does_not():
    frames, step = panning(12, 6.5)  # 71 px of 180 in all
    pair = torch.tensor([[0, 11]])
    chained = ClassicalTeacher()(frames, pair)
    direct = ClassicalTeacher()(frames[[0, 11]], torch.tensor([[0, 1]]))
    truth, inside = true_flow(np.linalg.matrix_power(step, 11))
    assert chained.refusals == ("",)
    assert errors(chained, 0, truth).median() < 0.2
    assert (chained.flow.covisible[0, 0] > 0)[inside].float().mean() > 0.6
    assert direct.refusals[0].startswith("too little covisible")


def test_pairs_without_use_are_refused_with_a_reason():
    frames, _ = panning(3, 5.0)
    other = stack([texture(*SIZE, seed=9)])
    far, _ = panning(2, 120.0)
    teacher = ClassicalTeacher()
    still = teacher(frames[[0, 0]], BOTH_WAYS)
    unrelated = teacher(torch.cat([frames[:1], other]), BOTH_WAYS)
    assert [reason.split(" (")[0] for reason in still.refusals] == ["near-static"] * 2
    assert [reason.split(" (")[0] for reason in unrelated.refusals] == ["too little covisible"] * 2
    assert teacher(far, BOTH_WAYS[:1]).refusals[0].startswith("too little covisible")
    assert teacher(frames, torch.tensor([[1, 1]])).refusals == ("same frame",)
    short = ClassicalTeacher(longest_chain=1)(frames, torch.tensor([[0, 2], [0, 1]]))
    assert short.refusals == ("chain too long (2 frames)", "")
    strict = ClassicalTeacher(feature_agreement=1.01)(frames, torch.tensor([[0, 1]]))
    assert strict.refusals[0].startswith("features disagree (")
    assert (
        ClassicalTeacher(covisible_share=(0.25, 0.5))(frames, torch.tensor([[0, 1]])).refusals[0].startswith("nothing")
    )
    for labels in (still, unrelated, strict):
        assert labels.flow.covisible.sum() == 0
        assert torch.isfinite(labels.flow.displacement).all()


def test_no_pairs_no_labels():
    frames, _ = panning(2, 5.0)
    labels = ClassicalTeacher()(frames, torch.zeros(0, 2, dtype=torch.long))
    assert labels.refusals == ()
    assert labels.flow.displacement.shape == (1, 0, *SIZE, 2)


def test_blank_images_are_refused():
    labels = ClassicalTeacher()(torch.zeros(2, 3, *SIZE), BOTH_WAYS)
    assert all(labels.refusals)


def test_a_change_of_exposure_is_no_motion():
    frames, step = panning(2, 6.0)
    brighter = torch.cat([frames[:1], 0.7 * frames[1:] + 0.1])
    labels = ClassicalTeacher()(brighter, BOTH_WAYS)
    assert labels.refusals == ("", "")
    assert errors(labels, 0, true_flow(step)[0]).median() < 0.15


def test_large_images_are_matched_smaller_and_labelled_at_their_size():
    size = (300, 480)
    frames, step = panning(2, 14.0, size)
    labels = ClassicalTeacher(long_side=160)(frames, BOTH_WAYS)
    assert labels.refusals == ("", "")
    assert labels.flow.displacement.shape == (1, 2, *size, 2)
    assert errors(labels, 0, true_flow(step, size)[0]).median() < 0.5


def test_labels_depend_on_the_input_alone():
    """Not on the number of threads, nor on which other pairs are asked for."""
    frames, _ = panning(5, 4.0)
    pairs = torch.tensor([[0, 3], [4, 1], [1, 2]])
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = ClassicalTeacher()(frames, pairs)
        cv2.setNumThreads(3)
        three = ClassicalTeacher()(frames, pairs)
    finally:
        cv2.setNumThreads(threads)
    alone = ClassicalTeacher()(frames, pairs[1:2])
    assert torch.equal(one.flow.displacement, three.flow.displacement)
    assert torch.equal(one.flow.covisible, three.flow.covisible)
    assert torch.equal(one.flow.displacement[:, 1:2], alone.flow.displacement)


def test_settings_are_recorded_and_the_arguments_untouched():
    teacher = TEACHERS["classical"](correlation=0.7)
    assert teacher.name == "classical"
    assert json.loads(json.dumps(teacher.parameters)) == teacher.parameters
    assert teacher.parameters != ClassicalTeacher().parameters
    frames, _ = panning(3, 4.0)
    before, pairs = frames.clone(), torch.tensor([[0, 2]])
    teacher(frames, pairs)
    assert torch.equal(frames, before)
    assert pairs.tolist() == [[0, 2]]
