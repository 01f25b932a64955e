"""The page of results: a generated part for each table, between markers; what stands outside them is left as it is."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flow3r.eval.tables.typeset import NOTHING, bounds, number
from flow3r.experiment.claims import Table
from flow3r.experiment.paper_numbers import paper_columns
from flow3r.experiment.readings import reading, short_name
from flow3r.experiment.result_files import MEASURES

TITLES: dict[Table, str] = {
    "table1": "Table 1 and more: what kind of flow supervision helps",
    "table6": "Table 6: does accurate flow help",
    "table4": "Table 4: more unlabelled sequences",
    "table7": "Table 7: flow or pseudo-3D labels",
    "table5": "Table 5: labelled and unlabelled flow, both families",
    "limits": "The paper's two limitations: the teacher's errors, many moving objects",
}  # in the order of the page
SHOWN: dict[Table, tuple[str, ...]] = {
    "table1": ("rra@30", "rta@30", "auc@30", "mse", "cd"),
    "table4": ("rra@30", "rta@30", "auc@30", "mse", "cd"),
    "table5": ("rra@30", "rta@30", "auc@30", "rotation", "mse"),
    "table6": ("aepe", "5px", "rotation", "auc@30"),
    "table7": ("rra@30", "rta@30", "auc@30", "mse", "cd"),
    "limits": ("rra@30", "rta@30", "auc@30", "rotation", "mse"),
}
START = """# The controlled experiments: results

The paper's Tables 1, 4, 5, 6 and 7 and its two limitations, on the sets of worlds of [experiments.md](experiments.md).
What stands between the comments is written by `flow3r experiment TABLE --report` from the results of the runs, whatever
they say.
"""
OVERVIEW = """## How to read this

The claims, and the rule that decides each, stand in `flow3r/experiment/hypotheses.py`, written before any run.
Differences are paired by seed and by test world, and positive where the claim holds; intervals (95 %) are of a
hierarchical bootstrap over seeds and worlds. *Undecided* is a result: with three seeds an interval is wide. Of claims
about which nothing differs, 4 to 10 in a hundred are decided by chance (simulated). In plots of claims, bars are
intervals and small strokes are seeds.

What differs from the paper, beside the size (the paper: a 24-layer transformer at 224 px, 160,000 steps on four H100,
a thousand labelled sequences and more):

* **Our encoder does not start from DINO's weights.** In their place stands a stage of matching, from which encoder and
  trunk start; all heads are fresh. Matching is itself supervised with exact flow, on endless worlds of two views and of
  all looks, 40 % of them with moving things: about 12,800 in the schedule `cpu`, before the first label. So the trunk
  has met flow, motion and the unlabelled looks before any arm begins: there is less left for unlabelled flow to add,
  and `transfer` is not "static scenes only" before its unlabelled ones. The run that decides how much this matters is
  one whose matching sees static worlds of the familiar looks alone.
* **World points have no head of their own.** In VGGT's family they are unprojected depth under the decoded pose. With
  the paper's head of points the base learnt no rotations from so little: after 500 steps it had an AUC@30 of 0.06 and
  an RRA@30 of 37.4 on validation worlds, which is that of identity; without, an AUC@30 of 10.3 after 200. So the loss
  of points ties points to cameras, even where their alignments are separate.
* Arms with shared alignment fork from a base that was trained with separate ones.
* Flow of unlabelled sequences is exact, where an arm does not say otherwise; the paper's is that of UFM.

All arms of a seed fork from one checkpoint of `3d-sup` (`base`) and take the same steps. Arms with flow on the same
unlabelled source draw the same scenes and pairs; arms without unlabelled flow (`3d-sup`), on labels of a teacher
(`-teacher`, `-corrected`) and on pseudo-3D labels draw others. The paper's numbers stand beside ours for their order
alone: they are of other data.
"""
BASELINES = ("identity", "mean pose", "oracle")


def page_with(page: str, part: str, text: str) -> str:
    """The page with the generated part of this name replaced, or put at its end."""
    begin, end = _markers(part)
    block = f"{begin}\n{text.strip()}\n{end}"
    if not has_part(page, part):
        return f"{page.rstrip()}\n\n{block}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)


def has_part(page: str, part: str) -> bool:
    """Whether the page has a generated part of this name."""
    begin, end = _markers(part)
    return begin in page and end in page


def _markers(part: str) -> tuple[str, str]:
    return f"<!-- {part}: generated, do not edit -->", f"<!-- {part}: end -->"


def section(analysis: Mapping[str, Any], plots: Sequence[Path]) -> str:
    """What is said of one table, in Markdown. `plots`: relative to the page."""
    lines = [f"## {TITLES[analysis['table']]}", "", *_paragraphs(reading(analysis))]
    for family, regime in dict.fromkeys((row["family"], row["regime"]) for row in analysis["rows"]):
        lines += [f"**{regime}, family {family}**", "", *_grid(analysis, family, regime), ""]
    lines += [*_notes(analysis), ""]
    lines += [f"![{path.stem.replace('-', ' ')}]({path.as_posix()})\n" for path in plots]
    lines += ["<details><summary>Every claim</summary>", "", *_claims(analysis["claims"]), "", "</details>"]
    return "\n".join(lines)


def _paragraphs(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        yield text
        yield ""


def _grid(analysis: Mapping[str, Any], family: str, regime: str) -> Iterator[str]:
    """Arms of a regime: our means with intervals, then what the paper prints."""
    table = analysis["table"]
    rows = [row for row in analysis["rows"] if (row["family"], row["regime"]) == (family, regime)]
    if table == "table6":
        rows = [row for row in rows if "aepe" in row["test"]]
    measures, paper = SHOWN[table], [column.heading for column in paper_columns(table, regime)]
    paper = [heading for heading in paper if any(row["paper"] for row in rows)]
    yield _line("arm", "seeds", *(heading(name) for name in measures), *paper)
    yield _line("---", *["--:"] * (1 + len(measures) + len(paper)))
    for row in rows:
        finished = [seed for seed, run in row["by_seed"].items() if not run["diverged"]]
        seeds = f"{len(finished)} of {analysis['seeds']}"
        cells = (_cell(row["test"].get(name), MEASURES[name].digits) for name in measures)
        yield _line(row["arm"], seeds, *cells, *(row["paper"].get(name, NOTHING) for name in paper))
    for trivial in analysis["trivial"]:
        if (trivial["family"], trivial["regime"]) == (family, regime):
            for name in (*BASELINES, *(set(trivial["rows"]) - set(BASELINES))):
                values = trivial["rows"].get(name, {})
                cells = (number(values.get(m), MEASURES[m].digits) for m in measures)
                yield _line(f"*{name}*", "", *cells, *[""] * len(paper))


def heading(measure: str) -> str:
    """A measure and which way is better."""
    return f"{MEASURES[measure].label} {'↑' if MEASURES[measure].better == 'higher' else '↓'}"


def _cell(value: Mapping[str, float] | None, digits: int) -> str:
    if value is None:
        return NOTHING
    return f"{number(value['mean'], digits)} {bounds(value['low'], value['high'], digits)}"


def _notes(analysis: Mapping[str, Any]) -> Iterator[str]:
    """Sizes, what diverged, what is missing."""
    rows = analysis["rows"]
    if rows:
        sizes = [row["parameters"].get("all", 0) / 1e6 for row in rows]
        heads = [row["parameters"].get("flow_head", 0) / 1e6 for row in rows if row["parameters"].get("flow_head")]
        worlds = sorted({row["worlds"] for row in rows if row["worlds"]})
        steps = sorted({row["steps"] for row in rows})
        said = f"Schedule `{analysis['schedule']}`: {_several(steps)} steps a run, {_several(worlds)} test worlds, "
        said += f"models of {_range(sizes, 'million parameters')}"
        said += f", flow heads of {_range(heads, 'million')}" if heads else ""
        yield f"* {said}; {_hours(rows):.1f} hours of training in all. Numbers are means [95 % interval]."
    if analysis["sweep"] and analysis["sweep"].get("chosen"):
        chosen = analysis["sweep"]["chosen"]
        said = "; ".join(
            f"{family}: {', '.join(f'{kind} {weight:g}' for kind, weight in weights.items())}"
            for family, weights in chosen.items()
        )
        yield f"* Weights of the flow loss, chosen on validation worlds: {said}."
        yield from _edges(analysis["sweep"])
    for row in rows:
        if row.get("pseudo"):
            failed = row["pseudo"]["failed"]
            said = "; ".join(f"{count} x {reason}" for reason, count in failed.items()) or "none"
            counts = f"{row['pseudo']['solved']} solved, {sum(failed.values())} failed"
            yield f"* Worlds with pseudo-3D labels: {counts} ({said})."
    if any(run["gradients"] for row in rows for run in row["by_seed"].values()):
        yield "* Gradients of flow and labels are compared before the norm of a step's whole gradient is clipped to 1."
    for curve in analysis["flow_and_pose"]:
        seeds = ", ".join(f"{value:+.2f}" for value in curve["by_seed"].values())
        said = f"{curve['regime']}: {curve['mean']:+.2f} (seeds: {seeds})"
        yield f"* Rank correlation over arms of AEPE and rotation error, {said}. +1: the better flow, the better poses."
    diverged = [
        f"{row['regime']} {row['arm']} seed {seed} ({run['diverged']})"
        for row in rows
        for seed, run in row["by_seed"].items()
        if run["diverged"]
    ]
    if rows:
        yield f"* Runs that diverged: {'; '.join(diverged) or 'none'}."
    if analysis["missing"]:
        yield f"* Not run ({len(analysis['missing'])}): {', '.join(_shorter(analysis['missing']))}."


def _edges(sweep: Mapping[str, Any]) -> Iterator[str]:
    """Where the chosen weight is the least or the largest that was tried, so that a better one may lie beyond."""
    for family, weights in sweep["chosen"].items():
        for kind, weight in weights.items():
            tried = {
                run["flow_weight"]: run[sweep["measure"]]
                for run in sorted(sweep["runs"], key=lambda run: run["flow_weight"])
                if (run["family"], run["head"]) == (family, kind)
            }
            if tried and weight in (min(tried), max(tried)):
                said = ", ".join(
                    f"{one:g}: {'diverged' if auc is None else f'{auc:.2f}'}" for one, auc in tried.items()
                )
                yield (
                    f"* The weight {weight:g} of {family}, {kind} lies at the edge of those tried: a better one may "
                    f"lie beyond. {MEASURES[sweep['measure']].label} by weight: {said}."
                )


def _hours(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of training; a base that serves several regimes was trained once."""
    seconds = {
        (row["family"], row["arm"], run["seconds"] if row["arm"] == "base" else row["regime"], seed): run["seconds"]
        for row in rows
        for seed, run in row["by_seed"].items()
    }
    return sum(seconds.values()) / 3600


def _shorter(missing: Sequence[str]) -> list[str]:
    """Seeds of one arm in one place."""
    seeds: dict[str, list[str]] = {}
    for name in missing:
        arm, _, seed = name.rpartition("/seed")
        seeds.setdefault(arm, []).append(seed)
    return [f"{arm} (seeds {', '.join(found)})" for arm, found in seeds.items()]


def _several(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)


def _range(values: Sequence[float], unit: str) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"


def _claims(claims: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _line("claim", "measure", "difference", "95 %", "seeds", "verdict", "from")
    yield _line("---", "---", "--:", "--:", "--:", "---", "---")
    for claim in claims:
        if "measure" not in claim:
            yield _line(f"{short_name(claim)}: {claim['claim']}", "", "", "", "", claim["verdict"], claim["source"])
            continue
        trend = claim["grows_with"]
        digits = 2 if trend else MEASURES[claim["measure"]].digits
        measure = f"{MEASURES[claim['measure']].label}, rank correlation" if trend else MEASURES[claim["measure"]].label
        seeds = " ".join(number(v, digits, sign=True) for v in (claim["by_seed"] or {}).values()) or NOTHING
        verdict = f"{claim['verdict']}: {claim['why']}" if claim["why"] else claim["verdict"]
        interval = bounds(claim["low"], claim["high"], digits)
        gap = number(claim["difference"], digits, sign=True)
        yield _line(claim["claim"], measure, gap, interval, seeds, verdict, claim["source"])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
