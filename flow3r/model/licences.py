"""The licences of public checkpoints: shown before their first use; those against commercial use must be accepted.

What was shown and accepted is kept in `licences.json` in the user's cache folder (`$XDG_CACHE_HOME/flow3r`), and where
that cannot be written, for as long as the process lives. Notices are warnings of the logger "flow3r".
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from flow3r.errors import CheckpointError
from flow3r.files import write_json
from flow3r.model.layouts import LayoutName

LOG = logging.getLogger("flow3r")
_ACCEPTING: ContextVar[bool] = ContextVar("accepting licences", default=False)
_DONE: dict[str, str] = {}  # what this process has shown or accepted, should the cache folder not be writable


@dataclass(frozen=True)
class Licence:
    """The terms of a public checkpoint, as its publisher states them on the page `url`."""

    hub_id: str
    terms: str
    commercial: bool | None  # None: nobody says
    url: str

    def __str__(self) -> str:
        use = {True: "commercial use allowed", False: "NO commercial use", None: "commercial use not stated"}
        return f"{self.hub_id}: {self.terms} ({use[self.commercial]}), {self.url}"


# As found on the publishers' pages in 2026. The authors' Flow3r weights came without a licence of their own; they were
# trained from π³'s, so that π³'s terms are the least that holds.
CHECKPOINTS = {
    licence.hub_id.lower(): licence
    for licence in (
        Licence(
            "Clara211111/flow3r",
            "no licence stated; trained from π³, CC BY-NC 4.0",
            False,
            "https://github.com/Kidrauh/flow3r",
        ),
        Licence("yyfz233/Pi3", "CC BY-NC 4.0", False, "https://github.com/yyfz/Pi3"),
        Licence("facebook/VGGT-1B", "CC BY-NC 4.0", False, "https://huggingface.co/facebook/VGGT-1B"),
        Licence(
            "facebook/VGGT-1B-Commercial",
            "VGGT License with an acceptable use policy, no military use",
            True,
            "https://huggingface.co/facebook/VGGT-1B-Commercial",
        ),
        Licence(
            "facebook/dinov2-with-registers-large",
            "Apache-2.0",
            True,
            "https://huggingface.co/facebook/dinov2-with-registers-large",
        ),
        Licence(
            "timm/vit_large_patch14_reg4_dinov2.lvd142m",
            "Apache-2.0",
            True,
            "https://huggingface.co/timm/vit_large_patch14_reg4_dinov2.lvd142m",
        ),
    )
}
USUAL_ORIGINS: dict[LayoutName, tuple[str, ...]] = {
    "flow3r": ("Clara211111/flow3r",),
    "pi3": ("yyfz233/Pi3",),
    "vggt": ("facebook/VGGT-1B", "facebook/VGGT-1B-Commercial"),
    "dinov2": ("facebook/dinov2-with-registers-large",),
    "dinov2-timm": ("timm/vit_large_patch14_reg4_dinov2.lvd142m",),
    "dinov2-transformers": ("facebook/dinov2-with-registers-large",),
}


@contextmanager
def accepting_licences(accept: bool = True) -> Iterator[None]:
    """Within, weights whose licence must be accepted are loaded as with `accept_license=True`: for a command line."""
    token = _ACCEPTING.set(accept or _ACCEPTING.get())
    try:
        yield
    finally:
        _ACCEPTING.reset(token)


def check_licence(hub_id: str, accept: bool = False) -> None:
    """Show the licence of a known public checkpoint before its first use.

    Raises CheckpointError if it forbids commercial use and was never accepted. Other ids are nothing to it.
    """
    licence = CHECKPOINTS.get(hub_id.lower())
    if licence is not None:
        agree_to(licence, accept)


def agree_to(licence: Licence, accept: bool = False, *, must_accept: bool = False) -> None:
    """Show a licence before the first use of what it covers.

    Raises CheckpointError if it was never accepted, and does not allow commercial use or `must_accept`.
    """
    must_accept = must_accept or not licence.commercial
    done = _done().get(licence.hub_id)
    if done == "accepted" or (done == "shown" and not must_accept):
        return
    if must_accept and not (accept or _ACCEPTING.get()):
        raise CheckpointError(
            f"{licence}. Read its terms and, if they suit your use, accept them once with --accept-license "
            "(in Python: accept_license=True)"
        )
    LOG.warning("licence of the weights: %s", licence)
    _remember({licence.hub_id: "accepted" if must_accept else "shown"})


def mention_origin(layout: LayoutName, path: Path) -> None:
    """Say once what licence files of a public layout usually have, for one whose origin nobody knows."""
    licences = [CHECKPOINTS[name.lower()] for name in USUAL_ORIGINS.get(layout, ())]
    if not licences or any(licence.hub_id in _done() for licence in licences) or layout in _done():
        return
    usual = "; or ".join(str(licence) for licence in licences)
    LOG.warning("%s: weights in the layout %s are usually %s. If so, those terms apply", path, layout, usual)
    _remember({layout: "shown"})


def record_path() -> Path:
    """Where it is kept what was shown and accepted."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "flow3r" / "licences.json"


def _done() -> dict[str, str]:
    try:
        kept = json.loads(record_path().read_text(encoding="utf-8"))
    except (OSError, RuntimeError, ValueError):  # no file, no home, no JSON
        kept = {}
    return (kept if isinstance(kept, dict) else {}) | _DONE


def _remember(news: dict[str, str]) -> None:
    _DONE.update(news)
    try:
        write_json(record_path(), _done())
    except (OSError, RuntimeError) as error:
        LOG.debug("not kept, so that licences will be shown again: %s", error)
