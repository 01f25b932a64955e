"""The report with pictures: an index.html and the pictures it shows, in one folder, without a network."""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.draw import to_bytes
from flow3r.errors import InputError
from flow3r.eval.page.page_tables import headline, listed_measure, measures_table, sequences_table, sheet_html
from flow3r.eval.page.pictures import (
    LARGEST_ERROR,
    Placed,
    Shown,
    cloud_pictures,
    frame_strip,
    orbit_around,
    place,
    prediction_maps,
    truth_maps,
)
from flow3r.eval.page.trajectories import TRUTH, aligned_centres, legend, trajectory_svg
from flow3r.eval.report import COLUMNS, label_in
from flow3r.eval.tables.collect import Measured, Results
from flow3r.eval.tables.typeset import LEGEND, Sheet, method_name
from flow3r.files import atomic_path, write_text

FAILURES = 3  # sequences at most that are shown because a method failed on them
JPEG_QUALITY = 85
# Of methods, in their order; ours, told apart by people who do not tell red from green too.
PALETTE = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .4em 0 1em; }
td, th { text-align: right; padding: 2px 1em 2px 0; vertical-align: top; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
th { border-bottom: 1px solid #999; } tr.rule td { border-top: 1px solid #ccc; } .best { font-weight: 600; }
h2 { margin: 2em 0 .3em; border-bottom: 2px solid #222; } h3 { margin: 1.6em 0 .3em; }
figure { display: inline-block; margin: 0 8px 10px 0; vertical-align: top; max-width: 100%; }
figure img { display: block; max-width: 100%; height: auto; } figcaption { font-size: 13px; color: #444; }
.clouds { display: flex; overflow-x: auto; } .clouds figure { flex: none; width: 330px; }
.clouds img { border: 1px solid #ddd; margin-bottom: 4px; width: 328px; height: auto; }
.key { margin-right: 1.2em; } .key i { display: inline-block; width: 12px; height: 12px; margin-right: 5px; }
.trajectory text { font: 12px system-ui, sans-serif; fill: #444; } .wrong { color: #a00; } small { color: #555; }
"""

Show = Callable[[Results, Measured], Shown]  # may raise InputError, with what the page then says


@dataclass(frozen=True)
class _Choice:
    """A sequence that the page shows, and why."""

    sequence: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Pictures:
    """Writes pictures into the folder `pictures` of the page, under numbers in the order they are made."""

    folder: Path
    names: list[str]

    def figure(self, pictures: Iterable[Float[Tensor, "3 _ _"]], caption: str) -> str:
        """HTML of pictures above one caption, which is HTML."""
        from PIL import Image

        images = []
        for picture in pictures:
            name = f"{len(self.names):04d}.jpg"
            self.names.append(name)
            Image.fromarray(to_bytes(picture).numpy()).save(self.folder / name, format="JPEG", quality=JPEG_QUALITY)
            height, width = picture.shape[1:]
            images.append(f'<img src="pictures/{name}" width="{width}" height="{height}" alt="" loading="lazy">')
        return f"<figure>{''.join(images)}<figcaption>{caption}</figcaption></figure>"


def write_page(
    results: Sequence[Results],
    folder: str | Path,
    show: Show,
    *,
    sheets: Sequence[Sheet] = (),
    title: str = "Evaluation",
) -> Path:
    """Write folder/index.html and folder/pictures, which the page refers to; returns the path of the page.

    `results`: of one run, in the order in which methods are to stand. `show` gives the frames of a draw, a method's
    sample and the truth on its grid; it is asked for the headline draw of few sequences of each benchmark: those on
    which the first method is worst, in the middle and best, and some on which a method failed. `sheets`: more tables,
    such as those beside the paper's. The same arguments make the same bytes.
    """
    folder = Path(folder)
    methods = list(dict.fromkeys(r.method for r in results))
    colours = {method: PALETTE[k % len(PALETTE)] for k, method in enumerate(methods)}
    benchmarks = list(dict.fromkeys(r.benchmark for r in results))
    with atomic_path(folder / "pictures") as temporary:
        temporary.mkdir()
        pictures = _Pictures(temporary, [])
        parts = [
            _benchmark([r for r in results if r.benchmark == name], colours, show, pictures) for name in benchmarks
        ]
    contents = "".join(f'<li><a href="#{_anchor(name)}">{html.escape(name)}</a></li>' for name in benchmarks)
    tables = "".join(map(sheet_html, sheets))
    if tables:
        contents += '<li><a href="#tables">Tables</a></li>'
        tables = f'<h2 id="tables">Tables</h2><p>{html.escape(LEGEND)}</p>{tables}'
    heading = html.escape(title)
    write_text(
        folder / "index.html",
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
        f"</head><body><h1>{heading}</h1><p>{legend(_named(colours))}</p><ul>{contents}</ul>{''.join(parts)}{tables}"
        "</body></html>\n",
    )
    return folder / "index.html"


def _named(colours: dict[str, str]) -> dict[str, str]:
    return {method_name(method): colour for method, colour in colours.items()}


def _anchor(name: str) -> str:
    return html.escape(f"benchmark-{name}", quote=True)


def _benchmark(results: list[Results], colours: dict[str, str], show: Show, pictures: _Pictures) -> str:
    parts = [f'<h2 id="{_anchor(results[0].benchmark)}">{html.escape(results[0].benchmark)}</h2>']
    profiles = list(dict.fromkeys(r.profile for r in results))
    parts += [measures_table([r for r in results if r.profile == profile]) for profile in profiles]
    own = [r for r in results if r.profile == profiles[0]]
    parts += [sequences_table(own)]
    parts += [_sequence(choice, own, colours, show, pictures) for choice in chosen_sequences(own)]
    return "".join(parts)


def chosen_sequences(results: Sequence[Results]) -> list[_Choice]:
    """Worst, middle and best sequence of the first method, then the first ones on which a method failed."""
    measure = listed_measure(results)
    reasons: dict[str, list[str]] = {}
    if measure is not None:
        scored = [m for m in headline(results[0]).values() if measure in m.score.values and not m.failed]
        sign = -1 if COLUMNS[measure].better == "lower" else 1
        worst_first = sorted(scored, key=lambda m: (sign * m.score.values[measure], m.score.sequence))
        label, name = label_in(measure, results[0].profile), method_name(results[0].method)
        for reason, place_ in (("worst", 0), ("median", len(worst_first) // 2), ("best", len(worst_first) - 1)):
            if worst_first:
                reasons.setdefault(worst_first[place_].score.sequence, []).append(f"{reason} {label} of {name}")
    failed = 0
    for sequence in sorted({sequence for r in results for sequence, m in headline(r).items() if m.failed}):
        if sequence in reasons or failed < FAILURES:
            failed += sequence not in reasons
            by = [method_name(r.method) for r in results if sequence in (h := headline(r)) and h[sequence].failed]
            reasons.setdefault(sequence, []).append(f"{', '.join(by)} failed")
    return [_Choice(sequence, tuple(why)) for sequence, why in reasons.items()]


def _sequence(choice: _Choice, results: list[Results], colours: dict[str, str], show: Show, pictures: _Pictures) -> str:
    """Everything about one sequence: frames, trajectories, depth and errors, clouds."""
    parts = [f"<h3>{html.escape(choice.sequence)} <small>{html.escape('; '.join(choice.reasons))}</small></h3>"]
    shown: dict[str, Shown] = {}
    said: dict[str, str] = {}
    for r in results:
        measured = headline(r).get(choice.sequence)
        if measured is None:
            said[r.method] = "not run"
            continue
        try:
            shown[r.method] = show(r, measured)
        except InputError as error:
            said[r.method] = str(error)
        if measured.failed:
            said[r.method] = f"failed: {measured.failed}"
    if not shown:
        return "".join(parts) + _said(said)
    frames = next(iter(shown.values())).frames
    numbers = next(headline(r)[choice.sequence] for r in results if r.method in shown).frames
    parts.append(pictures.figure([frame_strip(frames)], f"input: frames {', '.join(map(str, numbers))}"))
    parts.append(_said(said))
    parts.append(_trajectories(shown, colours, numbers))
    placed = {method: found for method, one in shown.items() if (found := place(one)) is not None}
    parts += [_maps(placed, pictures), _clouds(placed, colours, pictures)]
    return "".join(parts)


def _said(said: dict[str, str]) -> str:
    return "".join(f'<p class="wrong">{html.escape(method_name(m))}: {html.escape(why)}</p>' for m, why in said.items())


def _trajectories(shown: dict[str, Shown], colours: dict[str, str], numbers: Sequence[int]) -> str:
    centres = {}
    true = next((s.truth.world_from_camera for s in shown.values() if s.truth is not None), None)
    if true is None or len(true[0]) < 3:
        return ""
    for method, one in shown.items():
        if one.sample is not None:
            aligned = aligned_centres(torch.from_numpy(one.sample.world_from_camera), true[0])
            centres |= {} if aligned is None else {method: aligned}
    order = sorted(range(len(numbers)), key=lambda k: numbers[k])
    drawing = trajectory_svg(true[0], centres, colours, order)
    keys = legend({method_name(method): colours[method] for method in centres})
    caption = "camera centres, aligned as for the ATE; a ring is the first frame"
    return f"<figure>{drawing}<figcaption>{keys}<br>{caption}</figcaption></figure>"


def _maps(placed: dict[str, Placed], pictures: _Pictures) -> str:
    if not placed:
        return ""
    finest = _finest(placed)
    figures = [pictures.figure([truth_maps(finest)], "images" + (", true depth" if finest.truth else ""))]
    for method, one in placed.items():
        caption = f"<b>{html.escape(method_name(method))}</b>: depth"
        if one.error is not None:
            caption += (
                f"; error of the points, white 0 to dark {LARGEST_ERROR:.0%} of s and more; grey: truth unknown, "
                "black: no prediction"
            )
        figures.append(pictures.figure([prediction_maps(one)], caption))
    return f"<div>{''.join(figures)}</div>"


def _clouds(placed: dict[str, Placed], colours: dict[str, str], pictures: _Pictures) -> str:
    """The truth and every method, seen by the same cameras."""
    if not placed:
        return ""
    finest = _finest(placed)
    truth = finest.truth
    orbit = orbit_around(truth if truth is not None else finest.cloud)
    figures = []
    if truth is not None:
        figures.append(pictures.figure(cloud_pictures(truth, orbit, _rgb(TRUTH)), "<b>truth</b>"))
    for method, one in placed.items():
        views = cloud_pictures(one.cloud, orbit, _rgb(colours[method]), truth)
        caption = f"<b>{html.escape(method_name(method))}</b>, aligned by {one.aligned_by}"
        figures.append(pictures.figure(views, caption))
    return f'<div class="clouds">{"".join(figures)}</div>'


def _finest(placed: dict[str, Placed]) -> Placed:
    """That of the grid with the most pixels, which shows most of the truth."""
    return max(placed.values(), key=lambda one: one.depth.numel())


def _rgb(colour: str) -> tuple[float, float, float]:
    """Of #rrggbb, in [0, 1]."""
    return tuple(int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
