"""Plots of the experiments, as PNG, from the data of table_analysis.py. They need matplotlib (extra `plots`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flow3r.data.regimes import REGIMES
from flow3r.errors import Flow3rError
from flow3r.experiment.page import heading
from flow3r.experiment.readings import short_name
from flow3r.experiment.result_files import MEASURES
from flow3r.files import atomic_path

Table = Mapping[str, Any]  # what analyse() says of a table
COLOURS = {  # of Okabe and Ito, which the colour-blind can tell apart
    "3d-sup": "#000000",
    "flow-projective": "#D55E00",
    "flow-tracking": "#0072B2",
    "flow-factored": "#009E73",
    "flow-projective+sceneflow": "#E69F00",
    "flow-factored-pose": "#CC79A7",
    "flow-factored-camera8": "#56B4E9",
    "flow-factored-camera32": "#8C6BB1",
    "flow-factored-shared": "#A6761D",
    "flow-factored-teacher": "#882255",
    "flow-factored-corrected": "#999933",
}
OTHER = "#888888"
MARKERS = {"dynamic": "o", "static": "s", "transfer": "^"}
VERDICTS = {"supported": "#009E73", "contradicted": "#D55E00", "undecided": "#888888"}
SCALING = (("dynamic", "3d-sup"), ("dynamic", "flow-factored"), ("dynamic-10", "flow-factored"),
           ("dynamic-20", "flow-factored"))  # fmt: skip
SOURCES = (  # of flow -> what its error is called; mean pixels where docs/experiments.md knows them
    ("flow-factored", "exact"),
    ("flow-factored-corrected", "exact on\nteacher's pixels"),
    ("flow-factored-teacher", "embedded\nteacher"),
    ("flow-factored-noise1", "noise\n1 px"),
    ("flow-factored-noise3", "noise\n3 px"),
    ("flow-factored-wrong20", "20 % of pairs\nwrong"),
)


def draw(analysis: Table, folder: Path) -> tuple[Path, ...]:
    """All plots of a table for which there are results; paths of the files written.

    Raises Flow3rError without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise Flow3rError(
            "plots and the page need matplotlib, which is not here (the numbers are written as JSON): "
            "pip install 'flow3r[plots]', then --report"
        ) from error
    written = []
    for name, plot in _PLOTS[analysis["table"]].items():
        path = folder / f"{analysis['table']}-{name}.png"
        if plot(analysis, path):
            written.append(path)
    return tuple(written)


@contextmanager
def _figure(path: Path, columns: int, width: float, height: float) -> Iterator[Sequence[Any]]:
    """Axes beside each other, written to `path` at the end. No global state of matplotlib is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, color="#eeeeee", linewidth=0.8)
        axis.set_axisbelow(True)
    yield axes
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _rows(analysis: Table, **wanted: str) -> list[Mapping[str, Any]]:
    return [row for row in analysis["rows"] if all(row[key] == value for key, value in wanted.items())]


def _colour(arm: str) -> str:
    return COLOURS.get(arm, OTHER)


def claims_plot(analysis: Table, path: Path) -> bool:
    """Every decided claim as an interval, in the measure that decides: right of zero is the claimed side."""
    measures = [m for m in ("auc@30", "mse", "aepe") if any(_is_drawn(c, m) for c in analysis["claims"])]
    if not measures:
        return False
    names = list(dict.fromkeys(short_name(c) for c in analysis["claims"] if any(_is_drawn(c, m) for m in measures)))
    with _figure(path, len(measures), 5.2 + 2.6 * len(measures), 1.3 + 0.24 * len(names)) as axes:
        for axis, measure in zip(axes, measures):
            for claim in analysis["claims"]:
                if _is_drawn(claim, measure):
                    place, colour = names.index(short_name(claim)), VERDICTS[claim["verdict"]]
                    axis.plot([claim["low"], claim["high"]], [place, place], color=colour, linewidth=3, alpha=0.7)
                    axis.plot(claim["difference"], place, "o", color=colour, markersize=5)
                    seeds = list(claim["by_seed"].values())
                    axis.plot(seeds, [place] * len(seeds), "|", color="#333333", markersize=7)
            axis.axvline(0, color="#333333", linewidth=1)
            axis.set(
                ylim=(len(names) - 0.5, -0.5), xlabel=f"gain in {MEASURES[measure].label}", yticks=range(len(names))
            )
            axis.set_yticklabels(names if axis is axes[0] else [], fontsize=8)
        handles = [axes[0].plot([], [], "o-", color=colour, label=name)[0] for name, colour in VERDICTS.items()]
        axes[0].figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    return True


def _is_drawn(claim: Mapping[str, Any], measure: str) -> bool:
    return claim.get("measure") == measure and claim["difference"] is not None and not claim["grows_with"]


def flow_and_pose_plot(analysis: Table, path: Path) -> bool:
    """AEPE against the error of rotation, a point for each run (appendix B)."""
    rows = [row for row in analysis["rows"] if "aepe" in row["test"] and "rotation" in row["test"]]
    if not rows:
        return False
    with _figure(path, 1, 7.6, 4.6) as (axis,):
        for row in rows:
            runs = [seed["test"] for seed in row["by_seed"].values() if "aepe" in seed["test"]]
            style = {"marker": MARKERS.get(row["regime"], "D"), "color": _colour(row["arm"])}
            x, y = ([run[name] for run in runs] for name in ("aepe", "rotation"))
            axis.scatter(x, y, s=34, alpha=0.75, linewidths=0, **style)
        for arm in dict.fromkeys(row["arm"] for row in rows):
            axis.scatter([], [], color=_colour(arm), label=arm)
        for regime in dict.fromkeys(row["regime"] for row in rows):
            axis.scatter([], [], color="white", edgecolors="black", marker=MARKERS.get(regime, "D"), label=regime)
        axis.set(xlabel="AEPE of its own flow head, px", ylabel="mean rotation error, degrees")
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return True


def scaling_plot(analysis: Table, path: Path) -> bool:
    """What unlabelled sequences are worth, beside four times the labels."""
    found = [(REGIMES[regime].unlabelled.count, _rows(analysis, regime=regime, arm=arm)) for regime, arm in SCALING]
    points = [(0 if arm == "3d-sup" else count, rows[0]) for (count, rows), (_, arm) in zip(found, SCALING) if rows]
    if len(points) < 2:
        return False
    labelled = _rows(analysis, regime="dynamic-4x-labelled", arm="3d-sup")
    with _figure(path, 2, 9.0, 3.8) as axes:
        for axis, measure in zip(axes, ("auc@30", "mse")):
            drawn = [(place, count, row) for place, (count, row) in enumerate(points) if measure in row["test"]]
            for place, _, row in drawn:
                _point(axis, place, row, measure, _colour(row["arm"]))
            axis.plot([d[0] for d in drawn], [d[2]["test"][measure]["mean"] for d in drawn], color="#009E73", zorder=1)
            for row in labelled:
                if measure in row["test"]:
                    _band(axis, row["test"][measure], "#0072B2", "400 labelled, no unlabelled sequences")
            axis.set_xticks(range(len(points)), [f"{count:,}" for count, _ in points])
            axis.set(xlabel="unlabelled sequences, beside 100 labelled", ylabel=heading(measure))
        if labelled:
            axes[0].legend(frameon=False, fontsize=8)
    return True


def gap_plot(analysis: Table, path: Path) -> bool:
    """3d-sup on the labelled worlds that it learnt from, and on new ones."""
    rows = [row for row in analysis["rows"] if row["arm"] in ("base", "3d-sup") and row["train"] and row["test"]]
    if not rows:
        return False
    with _figure(path, 2, 9.0, 1.5 + 0.42 * len(rows)) as axes:
        for axis, measure in zip(axes, ("auc@30", "mse")):
            for place, row in enumerate(rows):
                both = [row[split].get(measure) for split in ("train", "test")]
                if None not in both:
                    axis.plot([both[0]["mean"], both[1]["mean"]], [place] * 2, color="#cccccc", zorder=1)
                    for value, colour in zip(both, ("#E69F00", "#000000")):
                        axis.plot([value["low"], value["high"]], [place] * 2, color=colour, linewidth=3, alpha=0.4)
                        axis.plot(value["mean"], place, "o", color=colour)
            axis.set(ylim=(len(rows) - 0.5, -0.5), xlabel=heading(measure), yticks=range(len(rows)))
            axis.set_yticklabels([f"{row['regime']}: {row['arm']}" for row in rows] if axis is axes[0] else [])
        for name, colour in (("labelled worlds that it learnt from", "#E69F00"), ("test worlds", "#000000")):
            axes[0].plot([], [], "o", color=colour, label=name)
        axes[0].figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return True


def gradients_plot(analysis: Table, path: Path) -> bool:
    """Size of the gradient of the flow term beside that of the 3D terms, and the angle between them."""
    rows = [row for row in analysis["rows"] if any(seed["gradients"] for seed in row["by_seed"].values())]
    if not rows:
        return False
    with _figure(path, 2, 10.0, 1.5 + 0.3 * len(rows)) as axes:
        for place, row in enumerate(rows):
            found = [seed["gradients"] for seed in row["by_seed"].values() if seed["gradients"]]
            for name, marker in (("flow_norm", "o"), ("labelled_norm", "x")):
                values = [one[name] for one in found]
                axes[0].plot(values, [place] * len(found), marker, color=_colour(row["arm"]), markersize=6, alpha=0.8)
            axes[1].plot(
                [one["cosine"] for one in found], [place] * len(found), "o", color=_colour(row["arm"]), alpha=0.8
            )
        for axis in axes:
            axis.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)), yticklabels=[])
        axes[0].set_yticklabels([f"{row['regime']}: {row['arm']}" for row in rows], fontsize=8)
        axes[0].set(xscale="log", xlabel="norm of the gradient over the trunk, before clipping")
        axes[1].axvline(0, color="#333333", linewidth=1)
        axes[1].set(xlabel="cosine of the gradients of flow and labels")
        reach = max(0.25, 1.1 * max(abs(x) for x in axes[1].get_xlim()))
        axes[1].set_xlim(-reach, reach)
        for name, marker in (("weighted flow", "o"), ("labels", "x")):
            axes[0].plot([], [], marker, color="#333333", label=name)
        axes[0].figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return True


def motion_plot(analysis: Table, path: Path) -> bool:
    """Error on worlds in which more or less moves."""
    curves = analysis["by_fact"]
    if not curves:
        return False
    panels = list(dict.fromkeys((curve["measure"], curve["fact"]) for curve in curves))
    with _figure(path, len(panels), 3.4 * len(panels), 3.6) as axes:
        for axis, (measure, fact) in zip(axes, panels):
            for curve in curves:
                if (curve["measure"], curve["fact"]) == (measure, fact) and curve["bins"]:
                    x, mean, low, high = (
                        np.array([b[key] for b in curve["bins"]]) for key in ("at", "mean", "low", "high")
                    )
                    axis.plot(x, mean, "o-", color=_colour(curve["arm"]), label=curve["arm"], markersize=4)
                    axis.fill_between(x, low, high, color=_colour(curve["arm"]), alpha=0.12, linewidth=0)
            share = fact == "moving_area"
            axis.set(xlabel="moving share of the picture" if share else "moving objects", ylabel=heading(measure))
        handles = axes[0].get_legend_handles_labels()[0]
        axes[0].figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False, fontsize=8)
    return True


def teacher_plot(analysis: Table, path: Path) -> bool:
    """What errors in the flow of unlabelled sequences cost."""
    found = [(rows[0], label) for arm, label in SOURCES if (rows := _rows(analysis, arm=arm))]
    if not found:
        return False
    with _figure(path, 2, 12.0, 3.8) as axes:
        for axis, measure in zip(axes, ("auc@30", "mse")):
            for place, (row, _) in enumerate(found):
                if measure in row["test"]:
                    _point(axis, place, row, measure, "#009E73")
            for row in _rows(analysis, arm="3d-sup"):
                if measure in row["test"]:
                    _band(axis, row["test"][measure], "#000000", "3d-sup: no flow")
            axis.set_xticks(range(len(found)), [label for _, label in found], fontsize=8)
            axis.set(ylabel=heading(measure))
        if axes[0].get_legend_handles_labels()[0]:
            axes[0].legend(frameon=False, fontsize=8)
    return True


def _point(axis: Any, place: float, row: Mapping[str, Any], measure: str, colour: str) -> None:
    """A mean with its interval, and its seeds as small points beside it."""
    value = row["test"][measure]
    axis.plot([place, place], [value["low"], value["high"]], color=colour, linewidth=3, alpha=0.5)
    axis.plot(place, value["mean"], "o", color=colour, markersize=7)
    seeds = [seed["test"][measure] for seed in row["by_seed"].values() if measure in seed["test"]]
    axis.plot([place + 0.12] * len(seeds), seeds, ".", color="#666666", markersize=5)


def _band(axis: Any, value: Mapping[str, float], colour: str, label: str) -> None:
    axis.axhline(value["mean"], color=colour, linestyle="--", linewidth=1.2, label=label)
    axis.axhspan(value["low"], value["high"], color=colour, alpha=0.07, linewidth=0)


_PLOTS: dict[str, dict[str, Callable[[Table, Path], bool]]] = {
    "table1": {"claims": claims_plot, "gap": gap_plot, "gradients": gradients_plot},
    "table4": {"scaling": scaling_plot, "claims": claims_plot},
    "table5": {"claims": claims_plot},
    "table6": {"flow-and-pose": flow_and_pose_plot, "claims": claims_plot},
    "table7": {"claims": claims_plot},
    "limits": {"teacher": teacher_plot, "motion": motion_plot},
}
