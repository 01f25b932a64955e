"""Outside methods whose packages tell the truth, in their own words, come out as perfect samples; grids are exact."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fake_packages
import numpy as np
import pytest
import torch
from fake_packages import FAKES, POSES, SCALE, SIZE, frame_images, seen, their_poses
from PIL import Image
from teacher.package_signatures import live_signature, reread

from flow3r.data.frame import Frame, check_indices
from flow3r.errors import CheckpointError, InputError
from flow3r.eval.benchmarks.manifests import Draw, Manifest, write_manifest
from flow3r.eval.methods.runners import cut3r, dust3r, flow3r_official, outside, pi3, vggt
from flow3r.eval.methods.runners.grids import dust3r_grid, pi3_grid, vggt_grid
from flow3r.eval.samples import Sample, read_sample, write_sample
from flow3r.geometry.align import apply_similarity, umeyama
from flow3r.geometry.flow import ndc_from_pixels

METHODS = {"dust3r": dust3r.Dust3r, "cut3r": cut3r.Cut3r, "vggt": vggt.Vggt, "pi3": pi3.Pi3}
KNOWN = json.loads(Path(__file__).with_name("runner_signatures.json").read_text(encoding="utf-8"))
ALIASES = {"PointCloudOptimizer": "BasePCOptimizer"}  # one class in the fake
FRAMES = [Frame(image, float(k), f"frame {k}") for k, image in enumerate(frame_images())]


@pytest.fixture
def installed(monkeypatch) -> Iterator:
    """Puts the fake of a package where Python looks for it."""

    def install(key: str) -> dict:
        made = FAKES[key]()
        for name, module in made.items():
            monkeypatch.setitem(sys.modules, name, module)
        return made

    return install


@pytest.fixture
def weights(tmp_path) -> str:
    path = tmp_path / "weights.pth"
    torch.save({}, path)
    return str(path)


def ready(key: str, weights: str) -> outside.OutsideMethod:
    """The method with weights that load without a licence to accept; VGGT's and π³'s fakes load by name alone."""
    by_name = key in ("vggt", "pi3")
    return METHODS[key](weights="" if by_name else weights, device="cpu", accept_license=True)


def assert_perfect(sample: Sample, views: list[int]) -> None:
    """Points and poses are the room's after one similarity, and every grid pixel knows its place in the frame."""
    prediction = sample.prediction()
    height, width = sample.size
    grid = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5, [1.0]), axis=-1)[:, :, 0]
    found, truth = prediction.world_points[0].double(), []
    for row, view in enumerate(views):
        pixels = grid @ np.linalg.inv(sample.grid_from_image[row]).T
        local, _ = seen(view, pixels[..., :2])
        truth.append(local / SCALE @ POSES[view, :3, :3].T + POSES[view, :3, 3])
    truth = torch.from_numpy(np.stack(truth))
    similarity = umeyama(found.reshape(-1, 3)[::7], truth.reshape(-1, 3)[::7])
    assert (apply_similarity(similarity, found.reshape(-1, 3)) - truth.reshape(-1, 3)).abs().max() < 1e-5
    scale, rotation, _ = similarity
    assert scale.item() == pytest.approx(1 / SCALE, rel=1e-5)
    centres = apply_similarity(similarity, prediction.world_from_camera[0, :, :3, 3])
    assert np.allclose(centres, POSES[views, :3, 3], atol=1e-5)
    assert np.allclose(rotation.numpy() @ sample.world_from_camera[:, :3, :3], POSES[views, :3, :3], atol=1e-5)


@pytest.mark.parametrize("key", METHODS)
def test_a_package_that_tells_the_truth_makes_a_perfect_sample(key, installed, weights, tmp_path):
    installed(key)
    sample = ready(key, weights)(FRAMES, [])
    write_sample(tmp_path / "0.npz", sample)
    assert_perfect(sample, [0, 1, 2])
    assert_perfect(read_sample(tmp_path / "0.npz"), [0, 1, 2])


@pytest.mark.parametrize("key", ["dust3r", "vggt"])
def test_intrinsics_are_those_of_the_frames_on_the_grid(key, installed, weights):
    installed(key)
    sample = ready(key, weights)(FRAMES, [])
    exact = np.array([[100.0, 0, SIZE[1] / 2], [0, 90.0, SIZE[0] / 2], [0, 0, 1]])
    assert np.allclose(sample.intrinsics, sample.grid_from_image @ exact, atol=1e-4)


def test_vggts_two_kinds_of_points_are_both_the_rooms(installed):
    installed("vggt")
    assert_perfect(vggt.Vggt(device="cpu", accept_license=True, points="pointmap")(FRAMES, []), [0, 1, 2])


def test_two_images_are_aligned_by_dust3r_without_optimisation(installed, weights):
    installed("dust3r")
    assert_perfect(ready("dust3r", weights)(FRAMES[1:], []), [1, 2])


@pytest.mark.parametrize(
    "break_it",
    [
        lambda poses: np.linalg.inv(poses),  # the other direction
        lambda poses: poses @ np.diag([1.0, -1.0, -1.0, 1.0]),  # OpenGL axes
    ],
)
def test_the_oracle_sees_a_swapped_convention(break_it):
    output = fake_packages.pi3_answer([0, 1, 2])
    broken = output | {"camera_poses": torch.from_numpy(break_it(their_poses()))[None]}
    assert_perfect(pi3.sample_from_native(output, [SIZE] * 3), [0, 1, 2])
    with pytest.raises(AssertionError):
        assert_perfect(pi3.sample_from_native(broken, [SIZE] * 3), [0, 1, 2])


def test_another_loader_than_the_known_one_is_refused():
    output = fake_packages.pi3_answer([0, 1])
    with pytest.raises(InputError, match=r"\(2, 434, 574, 3\), expected \(2, 462, 546, 3\)"):
        pi3.sample_from_native(output, [(100, 119)] * 2)


def test_frames_that_load_to_several_shapes_are_refused():
    with pytest.raises(InputError, match="several shapes"):
        outside.placed_sample([vggt_grid((90, 120)), vggt_grid((100, 120))], np.zeros((2, 4, 4)))


# Five-line twins of the loaders, with the same library.


def load_dust3r(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    wanted = round(side * max(image.width / image.height, image.height / image.width)) if side == 224 else side
    image = image.resize(tuple(round(length * wanted / longest) for length in image.size), Image.Resampling.LANCZOS)
    (x, y), (w, h) = (image.width // 2, image.height // 2), (image.width // 2 // 8 * 8, image.height // 2 // 8 * 8)
    w, h = (min(x, y), min(x, y)) if side == 224 else (w, 3 * w / 4) if image.width == image.height else (w, h)
    return image.crop((x - w, y - h, x + w, y + h))


def load_vggt(image: Image.Image) -> Image.Image:
    image = image.resize((518, round(image.height * (518 / image.width) / 14) * 14), Image.Resampling.BICUBIC)
    top = max(0, (image.height - 518) // 2)
    return image.crop((0, top, 518, top + min(518, image.height)))


@pytest.mark.parametrize("size", [(480, 640), (333, 500), (640, 480), (400, 400), (1080, 1920), (90, 120)])
@pytest.mark.parametrize(
    ("load", "grid"),
    [
        (lambda image: load_dust3r(image, 512), lambda size: dust3r_grid(size)),
        (lambda image: load_dust3r(image, 224), lambda size: dust3r_grid(size, 224)),
        (load_vggt, vggt_grid),
        (
            lambda image: image.resize(pi3_grid((480, 640), (480, 640)).size[::-1], Image.Resampling.LANCZOS),
            lambda size: pi3_grid((480, 640), size),
        ),
    ],
    ids=["512", "224", "vggt", "pi3"],
)
def test_known_pixels_land_where_the_grid_says(load, grid, size):
    known = np.array([0.53 * size[1], 0.44 * size[0]])
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    width = 0.03 * min(size)
    blob = 255 * np.exp(-((x - known[0]) ** 2 + (y - known[1]) ** 2) / (2 * width**2))
    loaded = np.asarray(load(Image.fromarray(blob.astype(np.uint8)))).astype(float)
    expected = grid(size)
    assert loaded.shape == expected.size
    y, x = np.mgrid[: loaded.shape[0], : loaded.shape[1]] + 0.5
    centre = np.array([(x * loaded).sum(), (y * loaded).sum()]) / loaded.sum()
    assert np.allclose(centre, (expected.from_image @ [*known, 1.0])[:2], atol=0.05)


# The loop over a manifest.


class Greys:
    """The fake packages' frames as a sequence."""

    name = "greys"

    def __len__(self) -> int:
        return len(FRAMES)

    def timestamps(self) -> np.ndarray:
        return np.arange(len(FRAMES), dtype=float)

    def frames(self, indices):
        return (FRAMES[index] for index in check_indices(indices, len(FRAMES)))


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> list[str]:
    """Of a runner, for a benchmark of two draws."""
    draws = tuple(Draw("greys", "greys", k, 1, frames, 3) for k, frames in enumerate([(0, 1, 2), (1, 2)]))
    write_manifest(tmp_path / "tiny.jsonl", Manifest("tiny", draws))
    benchmark = SimpleNamespace(name="tiny", select=lambda root: SimpleNamespace(sequences={"greys": Greys()}))
    monkeypatch.setattr(outside, "find_benchmark", lambda name: benchmark)
    folders = ["--root", str(tmp_path), "--out", str(tmp_path / "out")]
    return ["--manifest", str(tmp_path / "tiny.jsonl"), *folders, "--device", "cpu", "--accept-license"]


def test_a_run_is_resumed_and_makes_nothing_twice(arguments, installed, tmp_path, capsys, monkeypatch):
    installed("pi3")
    folder = tmp_path / "out" / "samples" / "pi3" / "tiny" / "greys"
    assert outside.main(pi3.Pi3, outside.parser_of(pi3.Pi3), arguments) == 0
    assert_perfect(read_sample(folder / "1.npz"), [1, 2])
    assert read_sample(folder / "1.npz").frames.tolist() == [1, 2]
    before = (folder / "0.npz").stat().st_mtime_ns
    (folder / "1.npz").write_bytes((folder / "1.npz").read_bytes()[:100])  # torn
    assert outside.main(pi3.Pi3, outside.parser_of(pi3.Pi3), arguments) == 0
    assert (folder / "0.npz").stat().st_mtime_ns == before
    assert_perfect(read_sample(folder / "1.npz"), [1, 2])
    assert capsys.readouterr().out.count("there already") == 1


def test_what_a_package_raises_fails_its_sample_alone(arguments, installed, tmp_path, monkeypatch):
    made = installed("pi3")
    real = made["pi3.utils.basic"].load_images_as_tensor

    def of_three(path, interval=1):
        if len(list(Path(path).iterdir())) < 3:
            raise RuntimeError("too few")
        return real(path, interval)

    monkeypatch.setattr(made["pi3.utils.basic"], "load_images_as_tensor", of_three)
    assert outside.main(pi3.Pi3, outside.parser_of(pi3.Pi3), arguments) == 1
    folder = tmp_path / "out" / "samples" / "pi3" / "tiny" / "greys"
    assert (folder / "0.npz").is_file() and not (folder / "1.npz").exists()
    assert "too few" in json.loads((folder / "1.failed.json").read_text())["reason"]


@pytest.mark.parametrize("key", METHODS)
def test_without_its_package_a_runner_says_how_to_install_it_and_what_the_licences_are(
    key, arguments, capsys, monkeypatch
):
    method = METHODS[key]
    monkeypatch.setitem(sys.modules, method.package.module, None)
    assert outside.main(method, outside.parser_of(method), arguments) == 2
    said = capsys.readouterr().out
    assert method.package.install in said and method.package.licence in said and method.licence.terms in said


def test_public_weights_are_not_fetched_before_their_licence_is_accepted(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where nothing was accepted yet
    monkeypatch.setattr("flow3r.model.licences._DONE", {})
    installed("pi3")
    with pytest.raises(CheckpointError, match="CC BY-NC"):
        pi3.Pi3(device="cpu")(FRAMES, [])


def test_other_weights_or_settings_are_another_fingerprint(installed, tmp_path):
    installed("vggt")
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    ways = [{}, {"points": "pointmap"}, {"weights": str(tmp_path / "a")}, {"weights": str(tmp_path / "b")}]
    assert len({vggt.Vggt(device="cpu", **way).fingerprint for way in ways}) == 4


# The authors' Flow3r, in a process of its own.


def native_flow(sizes: tuple[int, int]) -> tuple[dict, np.ndarray]:
    """Their output for the room, with flow of (0, 1) that leads 3 pixels right and 2 down."""
    output = {name: value.numpy() for name, value in fake_packages.pi3_answer([0, 1]).items()}
    y, x = np.mgrid[: sizes[0], : sizes[1]] + 0.5
    target = np.stack([x + 3, y + 2], axis=-1)
    return output | {"flow": ndc_from_pixels(torch.from_numpy(target)).numpy()[None, None]}, target


def test_the_authors_flow_is_converted_to_displacements():
    output, _ = native_flow((434, 574))
    sample = flow3r_official.sample_from_native(output, [SIZE] * 2, [(0, 1)])
    assert_perfect(sample, [0, 1])
    assert np.allclose(sample.flow, [3, 2], atol=1e-9) and sample.pairs.tolist() == [[0, 1]]


def test_the_worker_runs_a_package_that_has_our_name(tmp_path):
    checkout = tmp_path / "checkout"
    for folder in ("models", "utils"):
        (checkout / "flow3r" / folder).mkdir(parents=True)
    (checkout / "flow3r" / "utils" / "basic.py").write_text(
        "import os, torch\n"
        "def load_images_as_tensor(path='data/truck', interval=1, PIXEL_LIMIT=255000, verbose=True):\n"
        "    print('Found images')\n"
        "    return torch.zeros(len(os.listdir(path)), 3, 434, 574)\n"
    )
    output, _ = native_flow((434, 574))
    np.savez(checkout / "truth.npz", **output)
    (checkout / "flow3r" / "models" / "flow3r.py").write_text(
        "import numpy as np, torch\n"
        "class Flow3r(torch.nn.Module):\n"
        "    def forward(self, imgs, pair_indices=None):\n"
        "        if imgs.shape[1] != 2:\n"
        "            raise ValueError('two images')\n"
        f"        truth = dict(np.load({str(checkout / 'truth.npz')!r}))\n"
        "        if pair_indices is None:\n"
        "            truth.pop('flow')\n"
        "        return {'flow': None} | {name: torch.from_numpy(value) for name, value in truth.items()}\n"
    )
    torch.save({}, tmp_path / "flow3r.bin")
    method = flow3r_official.Flow3rOfficial(
        weights=str(tmp_path / "flow3r.bin"), checkout=str(checkout), device="cpu", accept_license=True
    )
    assert_perfect(method(FRAMES[:2], []), [0, 1])
    with pytest.raises(InputError, match="ValueError: two images"):
        method(FRAMES, [])
    assert np.allclose(method(FRAMES[:2], [(0, 1)]).flow, [3, 2], atol=1e-3)


def test_a_checkout_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"git clone https://github\.com/Kidrauh/flow3r"):
        _ = flow3r_official.Flow3rOfficial(checkout=str(tmp_path)).fingerprint


# What the page says.


def test_the_pages_example_writes_a_file_that_keeps_the_contract(repository, tmp_path):
    page = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    scope: dict = {}
    exec(example, scope)
    line = {"sequence": "alley_2", "draw": 3, "frames": [4, 6]}
    poses, grids = (np.stack([np.eye(size)] * 2) for size in (4, 3))
    scope["write"](str(tmp_path), "mine", line, np.ones((2, 8, 9, 3)), poses, grids)
    sample = read_sample(tmp_path / "samples" / "mine" / "sintel" / "alley_2" / "3.npz")
    assert sample.frames.tolist() == [4, 6] and sample.size == (8, 9) and sample.facts == {"weights": "mine.pth"}


def test_the_page_names_every_runner_and_its_licence(repository):
    page = (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for method in (*METHODS.values(), flow3r_official.Flow3rOfficial):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{method.name}`"))
        assert method.package.licence in row


# The fakes are called as the real packages are.


def found(module: object, name: str) -> object:
    owner, _, method = name.rpartition(".")
    if owner:
        return getattr(getattr(module, owner if hasattr(module, owner) else ALIASES[owner]), method)
    return getattr(module, name)


@pytest.mark.parametrize("key", FAKES)
def test_fakes_have_the_signatures_of_the_real_packages(key):
    made = FAKES[key]()
    for file, facts in KNOWN[key]["files"].items():
        name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = made[name if name in made else "dust3r.cloud_opt"]  # one module in the fake
        for function, said in facts["signatures"].items():
            assert live_signature(found(module, function)) == said, function


@pytest.mark.parametrize("key", KNOWN)
def test_an_installed_package_still_says_what_the_table_says(key):
    top = METHODS[key].package.module
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{top} is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))).parent
    for file, facts in KNOWN[key]["files"].items():
        assert reread((folder / file).read_text(encoding="utf-8"), facts) == facts, file
