"""What is installed is what stands in the repository (modules, viewer, weights), and what it needs is declared.

An editable install hides a file that the wheel leaves out, so a wheel is built and read.
"""

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from flow3r.model.sources import PACKAGED

BUILD = """
import os, sys
os.chdir(sys.argv[1])
from hatchling.build import build_sdist, build_wheel
print({"wheel": build_wheel, "sdist": build_sdist}[sys.argv[2]](sys.argv[3]))
"""

# Distributions whose module bears another name.
MODULE_OF = {
    "huggingface-hub": "huggingface_hub",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "ray[data]": "ray",
    "scikit-image": "skimage",
    "scikit-video": "skvideo",
}


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, repository: Path, folder: Path) -> Path:
    return folder / run(sys.executable, "-c", BUILD, str(repository), kind, str(folder)).splitlines()[-1]


def package_files(folder: Path) -> set[str]:
    """Everything in flow3r/ but what Python and editors leave behind."""
    found = {path.relative_to(folder) for path in (folder / "flow3r").rglob("*") if path.is_file()}
    return {str(p) for p in found if "__pycache__" not in p.parts and not any(x.startswith(".") for x in p.parts)}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", repository, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The wheel unpacked, as an installation has it."""
    folder = wheel.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_installed(installed: Path, program: str) -> str:
    """Run a program that sees flow3r in `installed` alone, not in the repository."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    return run(sys.executable, "-I", "-c", start + program, cwd=installed)


def test_the_wheel_holds_every_file_of_the_package(repository, installed):
    assert package_files(installed) == package_files(repository)


def test_type_checkers_see_that_the_package_is_typed(installed):
    assert (installed / "flow3r" / "py.typed").is_file()


def test_the_viewer_is_read_from_the_installed_package(repository, installed):
    program = "import importlib.resources as r; print(len((r.files('flow3r.export') / 'viewer.html').read_bytes()))"
    assert int(run_installed(installed, program)) == (repository / "flow3r/export/viewer.html").stat().st_size


def test_git_ignored_weights_are_packed_all_the_same(repository, tmp_path):
    """Weight files are ignored by git everywhere else, and a build leaves ignored files out unless it is told."""
    copy, name = tmp_path / "copy", "flow3r/weights/probe.safetensors"
    (copy / name).parent.mkdir(parents=True)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / file).write_bytes((repository / file).read_bytes())
    (copy / ".gitignore").write_text("*.safetensors\n*.json\n*.md\n")
    for file in ("flow3r/__init__.py", name, "flow3r/weights/probe.json", "flow3r/weights/probe.md"):
        (copy / file).write_text("")
    with zipfile.ZipFile(build("wheel", copy, tmp_path)) as archive:
        assert package_files(copy) <= set(archive.namelist())


def test_a_wheel_built_from_the_source_distribution_is_the_same(repository, wheel, tmp_path):
    sdist = build("sdist", repository, tmp_path)
    run(sys.executable, "-m", "tarfile", "-e", str(sdist), str(tmp_path))
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    rebuilt = build("wheel", unpacked, tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(rebuilt) as second:
        hashes = [{entry.filename: entry.CRC for entry in archive.infolist()} for archive in (first, second)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_load_from_the_installed_package(repository, installed, name):
    shipped = {path.name for path in (repository / "flow3r" / "weights").glob(f"{name}.*")}
    assert shipped == {f"{name}.safetensors", f"{name}.md"}  # never without its model card
    program = f"""
import importlib.resources, json, pathlib, flow3r
from safetensors.torch import load
from flow3r.model.checkpoints import load_model
weights = importlib.resources.files("flow3r") / "weights" / "{name}.safetensors"
tensors = load(weights.read_bytes())
model = load_model("{name}")
print(json.dumps({{
    "package": str(pathlib.Path(flow3r.__file__).parent),
    "finite": all(tensor.isfinite().all().item() for tensor in tensors.values()),
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "bytes": weights.stat().st_size,
    "training": model.training,
}}))
"""
    answer = json.loads(run_installed(installed, program))
    assert Path(answer["package"]) == installed / "flow3r"
    assert answer["finite"] and not answer["training"]
    assert 5e6 < answer["parameters"] < 20e6  # about 10 M
    assert answer["bytes"] <= 30e6


def test_the_command_is_declared_and_its_function_exists(repository, installed):
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    target = re.search(r"^flow3r = ([\w.]+):(\w+)$", entry_points.read_text(), re.MULTILINE)
    module, function = target.groups()
    path = installed / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_version_is_the_same_wherever_it_stands(installed):
    (metadata,) = installed.glob("*.dist-info/METADATA")
    version = run_installed(installed, "import flow3r; print(flow3r.__version__)").strip()
    assert f"\nVersion: {version}\n" in metadata.read_text()


def third_party_imports(repository: Path) -> set[str]:
    found = set()
    for path in (repository / "flow3r").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"flow3r"}


def test_everything_that_is_imported_is_declared(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [x for name in extras if name not in ("test", "lint") for x in extras[name]]
    names = [re.match(r"[\w.\[\]-]+", line)[0] for line in lines]
    declared = {MODULE_OF.get(name, name.replace("-", "_")) for name in names}
    assert third_party_imports(repository) <= declared


def test_the_constraints_allow_what_the_project_requires(repository):
    """One file of pins serves every machine: no path, no host, no build tag in it."""
    pins = [line for line in (repository / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins and all(re.fullmatch(r"[\w.-]+==[\d.]+", pin) for pin in pins)
    assert sum(pin.startswith("torch==") for pin in pins) == 1


def test_torchvision_is_never_required(repository):
    """It would replace the torch that is there, or fail to import beside a CPU build."""
    assert "torchvision" not in (repository / "pyproject.toml").read_text()
    assert "torchvision" not in third_party_imports(repository)
