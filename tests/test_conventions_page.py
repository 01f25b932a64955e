"""The code on docs/conventions.md runs, and its assertions hold."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conventions.md"


def sections() -> dict[str, str]:
    """The Python of each section."""
    found = {}
    for section in re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        code = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        if code:
            found[section.splitlines()[0].strip("# ")] = "\n".join(code)
    return found


@pytest.mark.parametrize("last", sections())
def test_the_examples_hold(last):
    """Read from the top, as someone would who comes to this section."""
    names: dict[str, object] = {}
    for section, code in sections().items():
        exec(compile(code, f"{PAGE.name}: {section}", "exec"), names)
        if section == last:
            return
