"""What the sources of the teachers' packages say of the calls that flow3r makes, read with ast: nothing is run.

    python tests/teacher/package_signatures.py FOLDER

reads packages that lie side by side in FOLDER (unpacked wheels, checkouts) and writes package_signatures.json beside
this file. Signatures are without self and annotations, and a default is told by a bare "="; words are names,
attributes and constants that a function or a class holds.
"""

import ast
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path

TABLE = Path(__file__).with_name("package_signatures.json")


def signature(node: ast.FunctionDef) -> str:
    """The parameters of a function in its source."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    optional = [False] * (len(positional) - len(arguments.defaults)) + [True] * len(arguments.defaults)
    said = [f"{a.arg}=" if default else a.arg for a, default in zip(positional, optional)]
    if arguments.vararg or arguments.kwonlyargs:
        said.append(f"*{arguments.vararg.arg if arguments.vararg else ''}")
    said += [f"{a.arg}=" if default else a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    said += [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return ", ".join(name for name in said if name not in ("self", "cls"))


def live_signature(function: Callable) -> str:
    """The same of a function that can be called."""
    said, kinds = [], inspect.Parameter
    for parameter in inspect.signature(function).parameters.values():
        stars = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        if parameter.kind == kinds.KEYWORD_ONLY and not any(name.startswith("*") for name in said):
            said.append("*")
        said.append(f"{stars}{parameter.name}{'' if parameter.default is kinds.empty else '='}")
    return ", ".join(name for name in said if name not in ("self", "cls"))


def reread(source: str, known: dict) -> dict:
    """The facts about one file read anew. Raises KeyError for a function or class that is not there any more."""
    nodes: dict[str, ast.AST] = {}
    for node in ast.parse(source).body:
        nodes[getattr(node, "name", "")] = node
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            nodes[f"{node.name}.{getattr(inner, 'name', '')}"] = inner
    words = {
        name: [word for word in wanted if word in set(_words(nodes[name]))]
        for name, wanted in known.get("words", {}).items()
    }
    return {"signatures": {name: signature(nodes[name]) for name in known.get("signatures", {})}, "words": words}


def _words(node: ast.AST):
    for inner in ast.walk(node):
        yield from (getattr(inner, key) for key in ("id", "attr", "value") if isinstance(getattr(inner, key, 0), str))


if __name__ == "__main__":
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    for package in table.values():
        files = package["files"]
        package["files"] = {
            file: reread((Path(sys.argv[1]) / file).read_text("utf-8"), facts) for file, facts in files.items()
        }
    TABLE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
