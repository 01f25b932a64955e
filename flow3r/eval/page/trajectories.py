"""True and predicted camera centres as a drawing (SVG): from above, and from the right."""

import html
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from flow3r.draw import orbit_of
from flow3r.geometry.align import apply_similarity, umeyama

TRUTH = "#222222"
SIDE, MARGIN = 300, 24  # pixels of each of the two drawings


def aligned_centres(predicted: Float[Tensor, "N 4 4"], true: Float[Tensor, "N 4 4"]) -> Float[Tensor, "N 3"] | None:
    """Predicted centres after the similarity that the ATE fits, here to the cameras that are given; NaN for the others.

    None where fewer than three are given.
    """
    source, target = predicted[:, :3, 3].double(), true[:, :3, 3].double()
    given = source.isfinite().all(-1)
    if given.sum() < 3:
        return None
    return apply_similarity(umeyama(source[given], target[given]), source)


def trajectory_svg(
    true: Float[Tensor, "N 4 4"],
    centres: Mapping[str, Float[Tensor, "N 3"]],
    colours: Mapping[str, str],
    order: list[int],
) -> str:
    """Centres as dots, joined in `order`, those that are NaN left out; thin lines lead from predicted to true ones.

    Left from above, the cameras' mean line of sight upwards on the page; right as seen from the right hand, with
    forward to the right and up upwards. One scale for both; the bar says it, in the truth's unit.
    """
    truth = true[:, :3, 3].double()
    orbit = orbit_of(truth, true.double())
    right = torch.linalg.cross(orbit.forward, orbit.up)
    middle = 0.5 * (truth.amin(0) + truth.amax(0))
    every = (torch.cat([truth, *centres.values()]) - middle).nan_to_num(0)
    axes = ((right, orbit.forward), (orbit.forward, orbit.up))
    reach = max(float((every @ axis).abs().max()) for axis in (right, orbit.forward, orbit.up))
    scale = (SIDE / 2 - MARGIN) / reach if reach > 0 else 1.0
    parts = [
        f'<svg class="trajectory" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * SIDE} {SIDE + 16}" '
        f'width="{2 * SIDE}" height="{SIDE + 16}" role="img" aria-label="camera centres">'
    ]
    for number, (across, upward) in enumerate(axes):

        def place(points: Tensor, number: int = number, across: Tensor = across, upward: Tensor = upward) -> Tensor:
            x = SIDE * (number + 0.5) + scale * ((points - middle) @ across)
            return torch.stack([x, SIDE / 2 + 16 - scale * ((points - middle) @ upward)], dim=-1)

        name = ("from above", "from the right")[number]
        parts.append(f'<text x="{SIDE * number + 8}" y="12">{name}</text>')
        at_truth = place(truth)
        for method, predicted in centres.items():
            given = predicted.isfinite().all(-1)
            pairs = torch.stack([at_truth, place(predicted)], dim=1)[given]
            parts += [_line(pair, colours[method], 0.6, 0.5) for pair in pairs]
        parts += [_line(at_truth[order], TRUTH, 2.4, 1.0), *_dots(at_truth, order, TRUTH, 3.2)]
        for method, predicted in centres.items():
            ends, known = place(predicted), [k for k in order if predicted[k].isfinite().all()]
            parts += [_line(ends[known], colours[method], 1.4, 1.0), *_dots(ends, known, colours[method], 2.6)]
    return "".join([*parts, *_bar(scale, reach), "</svg>"])


def legend(colours: Mapping[str, str]) -> str:
    """Which colour is whose, as HTML."""
    entries = {"truth": TRUTH} | dict(colours)
    return "".join(
        f'<span class="key"><i style="background:{colour}"></i>{html.escape(name)}</span>'
        for name, colour in entries.items()
    )


def _line(points: Tensor, colour: str, width: float, opacity: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points.tolist())
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def _dots(points: Tensor, order: list[int], colour: str, radius: float) -> list[str]:
    """The first one is a ring."""
    dots = []
    for k in order:
        x, y = points[k].tolist()
        first = k == order[0]
        fill = "white" if first else colour
        dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius + first:.1f}" fill="{fill}" stroke="{colour}"/>')
    return dots


def _bar(scale: float, reach: float) -> list[str]:
    """A bar of 1, 2 or 5 times a power of ten, at most a third of a drawing long."""
    if reach <= 0:
        return []
    most = SIDE / 3 / scale
    power = 10.0 ** math.floor(math.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    y = SIDE + 10
    return [
        f'<line x1="8" x2="{8 + scale * length:.1f}" y1="{y}" y2="{y}" stroke="{TRUTH}" stroke-width="2"/>',
        f'<text x="{14 + scale * length:.1f}" y="{y + 4}">{length:g}</text>',
    ]
