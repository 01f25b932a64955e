"""`make bench` runs every benchmark that can be run as it is."""

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def must_be_given(call: ast.Call) -> bool:
    """Whether a call of add_argument declares something that the command line cannot do without."""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if isinstance(call.args[0], ast.Constant) and not call.args[0].value.startswith("-"):
        return keywords.get("nargs") not in ("'?'", "'*'")
    return keywords.get("required") == "True"


def needs_arguments(path: Path) -> bool:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return any(must_be_given(call) for call in calls if ast.unparse(call.func).endswith(".add_argument"))


def test_make_bench_runs_the_benchmarks_that_need_no_arguments_and_no_others():
    listed = re.search(r"^BENCHMARKS := (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    alone = {path.stem for path in (REPOSITORY / "benchmarks").glob("[a-z]*.py") if not needs_arguments(path)}
    assert listed.group(1).split() == sorted(alone)
    assert "true_flow" not in alone and "pseudo_labels" not in alone
