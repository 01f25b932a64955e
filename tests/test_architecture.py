"""The house stands as drawn: floors, the import floor, sizes, names, and the rules of style that a program can see."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import flow3r

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "flow3r"

# A room is the first path component under flow3r/. It imports only from floors below its own, never from a sibling.
# "__init__" is the public surface, `from flow3r import load_model`.
FLOORS = (
    {"geometry", "nn", "types", "config", "errors", "files"},
    {"model", "presets", "draw"},
    {"losses", "metrics"},
    {"data"},
    {"teacher", "train", "reconstruction", "export"},
    {"eval", "__init__"},
    {"adapt", "experiment", "reproduce"},
    {"quickstart"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SHARED_GROUND = {"types", "config", "errors", "files"}  # open to every room, those of floor 0 too
NEVER = {("eval", "train")}  # a measure knows nothing of how the model was made

IMPORT_FLOOR = {"torch", "numpy", "safetensors", "rich", "jaxtyping"}  # all else is imported where it is used
COMMAND_LINE = {"cli": {"tyro"}}  # its annotations need tyro, and nothing imports it
HOMELESS = re.compile(r"^_*(utils?|misc|helpers?|common|base_.*)$")
# PyTorch pickles the index of a distributed checkpoint; what it may name is listed there, and tested.
RESTRICTED_UNPICKLER = "flow3r/train/checkpoint.py"
UNFINISHED = re.compile(r"\b(NotImplementedError|TODO|FIXME|XXX)\b")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


OURS = python_files("flow3r", "tests", "benchmarks", "examples")
MODULES = python_files("flow3r")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path, node: ast.AST) -> Iterator[str]:
    """The absolute dotted names that an import statement, or a call of import_module with a literal, asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = path.relative_to(REPOSITORY).parent.parts
        base = ".".join(package[: len(package) + 1 - node.level]) + "." if node.level else ""
        module = (base + (node.module or "")).rstrip(".")
        yield from ([f"{module}.{alias.name}" for alias in node.names] if module == "flow3r" else [module])
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value


def rooms_used_by(path: Path) -> set[str]:
    """The other rooms that a module imports, at its top, lazily or for type checking alone."""
    names = {name for node in ast.walk(tree_of(path)) for name in imported_modules(path, node)}
    parts = [name.split(".") for name in names]
    inner = {[*part, "__init__"][1] for part in parts if part[0] == "flow3r"}
    rooms = {room_of(module) for module in MODULES}
    return {room if room in rooms | set(FLOOR_OF) else "__init__" for room in inner} - {room_of(path)}


def run_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes of a module that are executed when it is imported."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def test_every_room_has_a_place_in_the_house():
    homeless = {room_of(path) for path in MODULES} - set(FLOOR_OF)
    assert not homeless, f"rooms without a floor: {homeless}; give them one in FLOORS, or a home in a room that stands"
    imagined = set(FLOOR_OF) - {room_of(path) for path in MODULES}
    assert not imagined, f"floors for rooms that do not exist: {imagined}"


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_imports_only_from_floors_below(room):
    wrong = []
    for path in MODULES:
        if room_of(path) != room:
            continue
        for used in rooms_used_by(path):
            below = FLOOR_OF[used] < FLOOR_OF[room] or used in SHARED_GROUND
            if not below or (room, used) in NEVER:
                wrong.append(f"{name_of(path)} imports {used} (floor {FLOOR_OF[used]}) from floor {FLOOR_OF[room]}")
    assert not wrong, "\n".join(wrong)


def test_the_architecture_test_sees_every_way_to_import(tmp_path):
    source = """
import flow3r.train.loop
from flow3r import cli
from flow3r.eval import measures
from .heads import a
from ..losses import terms
from flow3r import load_model
def lazily():
    from flow3r.data import video
    importlib.import_module("flow3r.viewer")
"""
    path = PACKAGE / "model" / "imagined.py"
    names = {name for node in ast.walk(ast.parse(source)) for name in imported_modules(path, node)}
    assert {name.split(".")[1] for name in names} == {
        "train", "cli", "eval", "model", "losses", "load_model", "data", "viewer"
    }  # fmt: skip


def test_the_package_imports_at_its_top_only_what_every_machine_has():
    wrong = []
    for path in MODULES:
        allowed = sys.stdlib_module_names | IMPORT_FLOOR | {"flow3r"} | COMMAND_LINE.get(room_of(path), set())
        for node in run_at_import(tree_of(path)):
            for name in imported_modules(path, node):
                top = name.split(".")[0]
                if top not in allowed:
                    wrong.append(f"{name_of(path)}:{node.lineno} imports {top}; import it where it is used")
    assert not wrong, "\n".join(wrong)


# Run in a fresh interpreter that has the standard library, the import floor and what that itself needs, and no more.
IMPORT_EVERYTHING = """
import importlib, importlib.metadata, json, logging, os, random, signal, sys, warnings
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
allowed, modules, repository = json.loads(sys.argv[1])
allowed = set(allowed) | set(sys.stdlib_module_names)

class OnlyTheFloor:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.partition(".")[0] in allowed else None

    @staticmethod
    def find_distributions(context=importlib.metadata.DistributionFinder.Context()):
        # A checkout that was never installed has no metadata of its own.
        return (found for found in PathFinder.find_distributions(context) if found.metadata["Name"] != "flow3r")

sys.path.insert(0, repository)
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, OnlyTheFloor]
import jaxtyping, numpy, rich.console, safetensors.torch, torch  # rich itself draws random numbers at its import

def world():
    return {
        "threads": torch.get_num_threads(), "dtype": str(torch.get_default_dtype()), "grad": torch.is_grad_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(), "cudnn benchmark": torch.backends.cudnn.benchmark,
        "tf32": torch.backends.cuda.matmul.allow_tf32, "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch random state": torch.random.get_rng_state().tolist(), "random state": str(random.getstate()),
        "numpy random state": str(numpy.random.get_state()), "numpy errors": numpy.geterr(), "folder": os.getcwd(),
        "environment": dict(os.environ), "signals": str([signal.getsignal(s) for s in signal.valid_signals()]),
        "log handlers": str(logging.root.handlers), "log level": logging.root.level, "warnings": str(warnings.filters),
    }

before, failures = world(), {}
for module in modules:
    try:
        importlib.import_module(module)
    except Exception as error:
        failures[module] = repr(error)
after = world()
print(json.dumps([failures, [key for key in before if before[key] != after[key]]]))
"""


def import_floor_closure() -> set[str]:
    """The top-level modules of the import floor's distributions and of everything that they require."""
    provided: dict[str, set[str]] = {}
    for module, distributions in importlib.metadata.packages_distributions().items():
        for distribution in distributions:
            provided.setdefault(normalised(distribution), set()).add(module)
    waiting, closure = list(IMPORT_FLOOR), set()
    while waiting:
        distribution = normalised(waiting.pop())
        if distribution in closure or distribution not in provided:
            continue
        closure.add(distribution)
        requirements = importlib.metadata.requires(distribution) or []
        waiting += [re.match(r"[\w.-]+", line)[0] for line in requirements if "extra ==" not in line]
    return set().union(*(provided[distribution] for distribution in closure))


def normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_everything_imports_with_the_import_floor_alone_and_importing_does_nothing():
    files = [path for path in MODULES if room_of(path) not in COMMAND_LINE]
    modules = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files]
    modules = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
    allowed = import_floor_closure() | {"flow3r"}
    assert "cv2" not in allowed and "sympy" in allowed  # the closure holds torch's needs and no more
    arguments = json.dumps([sorted(allowed), modules, str(REPOSITORY)])
    command = [sys.executable, "-I", "-c", IMPORT_EVERYTHING, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    failures, changed = json.loads(last)
    assert not failures, "\n".join(f"{module}: {error}" for module, error in failures.items())
    assert changed == [], "importing flow3r changed the state of the process"
    assert printed == [], "importing flow3r printed something"


def test_files_and_functions_are_short():
    long = [name_of(path) for path in OURS if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    examples = [name_of(p) for p in python_files("examples") if len(p.read_text(encoding="utf-8").splitlines()) > 70]
    for path in OURS:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 80:
                long.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not long + examples, "\n".join(long + examples)


def test_no_file_is_named_after_nothing():
    assert [
        name_of(path) for path in OURS if any(HOMELESS.match(part.removesuffix(".py")) for part in path.parts)
    ] == []


def test_test_files_have_names_of_their_own():
    """pytest imports them by their last name, so that two of one name would be taken for each other."""
    names = [path.name for path in python_files("tests") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))


def test_the_public_surface_is_there_and_no_module_hides_it():
    """A module flow3r/reconstruct.py would, once imported, take the place of the function flow3r.reconstruct."""
    assert {"load_model", "reconstruct", "Views", "Prediction", "Flow"} <= set(flow3r.__all__)
    for name in flow3r.__all__:
        assert getattr(flow3r, name).__name__ == name
        assert not (PACKAGE / f"{name}.py").exists() and not (PACKAGE / name).exists()


def test_public_functions_classes_and_modules_say_what_they_are():
    silent = []
    for path in MODULES:
        tree = tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            silent.append(name_of(path))
        for node in tree.body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):
                silent.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not silent, "\n".join(silent)


def test_nothing_is_left_unfinished():
    left = []
    for path in OURS:
        if path == Path(__file__).resolve():
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        left += [f"{name_of(path)}:{number}" for number, line in enumerate(lines, 1) if UNFINISHED.search(line)]
    assert not left, "\n".join(left)


def test_no_code_is_commented_out():
    """A comment that parses as an assignment, a call, an import or a return was code."""
    code = ast.Assign | ast.AugAssign | ast.Import | ast.ImportFrom | ast.Return | ast.Raise | ast.For | ast.With
    dead = []
    for path in OURS:
        with tokenize.open(path) as file:
            comments = [t for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
        for comment in comments:
            if comment.line.strip() != comment.string:
                continue  # beside code: a source or a shape
            try:
                body = ast.parse(comment.string.lstrip("# ")).body
            except SyntaxError:
                continue
            call = [n for n in body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
            if call or any(isinstance(node, code) for node in body):
                dead.append(f"{name_of(path)}:{comment.start[0]} {comment.string}")
    assert not dead, "\n".join(dead)


def test_annotations_are_evaluated_where_they_stand():
    """Postponed annotations would hide the shapes from the checks."""
    for path in OURS:
        for node in tree_of(path).body:
            assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__"), name_of(path)


def test_nothing_read_from_disk_can_run_code():
    """No pickle, no eval or exec; torch.load with weights_only=True; no object arrays."""
    wrong = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            where = f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
            imported = {name.split(".")[0] for name in imported_modules(path, node)} & {"pickle", "dill", "joblib"}
            if imported and name_of(path) != RESTRICTED_UNPICKLER:
                wrong.append(f"{where} imports pickle")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("eval", "exec") or keywords.get("allow_pickle") == "True":
                wrong.append(f"{where} {called}")
            if called == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"{where} torch.load without weights_only=True")
    assert not wrong, "\n".join(wrong)
