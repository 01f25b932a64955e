"""What commands have in common: where they print, what they refuse, and the flag of those that load weights."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flow3r.errors import InputError

PRINT = Console(highlight=False)
ACCEPT_LICENSE = "Accept the licence of public weights that forbids commercial use, once read; it is remembered."


def loads_weights(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flag `--accept-license`, which accepts the licences of the public weights that it loads."""

    @functools.wraps(command)
    def with_licences(*arguments, accept_license: bool = False, **options) -> None:
        from flow3r.model.licences import accepting_licences

        with accepting_licences(accept_license):
            command(*arguments, **options)

    said = inspect.signature(command)
    flag = inspect.Parameter("accept_license", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    with_licences.__signature__ = said.replace(parameters=[*said.parameters.values(), flag])
    with_licences.__annotations__ = command.__annotations__ | {"accept_license": bool}
    with_licences.__doc__ = f"{command.__doc__.rstrip()}\n        accept_license: {ACCEPT_LICENSE}\n    "
    del with_licences.__wrapped__  # whose signature has no such flag
    return with_licences


def refuse_file(out: Path) -> None:
    """Raises InputError for an output folder that is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; expected a folder to write into, existing or not")


def refuse_no_time(steps: int | None, seconds: float | None) -> None:
    """Raises InputError for steps or seconds that leave nothing to be done."""
    for name, value in (("steps", steps), ("seconds", seconds)):
        if value is not None and not value > 0:
            raise InputError(f"--{name} {value:g}: expected more than 0")
