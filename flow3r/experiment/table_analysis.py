"""A table of the experiments as data: means with intervals, single seeds, decisions, errors by what moves. Small, for
JSON; pages and plots are made of it alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from flow3r.eval.tables.intervals import RESAMPLES
from flow3r.experiment.claims import Conjunction, Side, Table
from flow3r.experiment.comparisons import Decision, decide, name_of
from flow3r.experiment.hypotheses import SEEDS, conjunctions, hypotheses
from flow3r.experiment.paper_numbers import paper_row
from flow3r.experiment.result_files import FACTS, MEASURES, Run, Runs, Scores
from flow3r.experiment.seed_intervals import Drawn, drawn_means, ranks, seed_interval
from flow3r.experiment.tables import parts_of

FORMAT = "flow3r-experiment-1"
COUNTS = {"moving_objects": (0, 1, 2, 3, 4, 5, 99)}  # ours: edges; worlds of five and more stand together
QUANTILES = 5  # ours: groups of equally many worlds, for a fact that is no count
BY_FACT = ("rotation", "mse")
COMPARED = ("3d-sup", "flow-projective", "flow-tracking", "flow-factored")  # errors by what moves


def analyse(table: Table, runs: Runs, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All that is said of a table. Raises InputError for a table that there is not."""
    sides = sides_of(table)
    claims = [claim for claim in hypotheses() if claim.table == table]
    joined = [claim for claim in conjunctions() if claim.table == table]
    parts = {part for claim in joined for part in claim.parts}
    others = [claim for claim in hypotheses() if claim.table != table and claim.id in parts]
    decided = decide((*claims, *others), joined, runs, resamples)
    return {
        "format": FORMAT,
        "table": table,
        "schedule": runs.schedule,
        "seeds": SEEDS,
        "rows": [row for side in sides if (row := _row(table, side, runs, resamples)) is not None],
        "trivial": [_trivial(regime, runs) for regime in _families_and_regimes(sides) if regime in runs.trivial],
        "claims": [_claim(one) for one in decided if one.claim.table == table],
        "by_fact": _by_fact(runs, resamples) if table == "limits" else [],
        "flow_and_pose": _flow_and_pose(sides, runs) if table == "table6" else [],
        "sweep": runs.sweep,
        "missing": [
            f"{name_of(side)}/seed{seed}" for side in sides for seed in range(SEEDS) if seed not in runs.of(side)
        ],
    }


def short(value: float) -> float:
    """Five digits: more than means over some hundred worlds are worth."""
    return float(f"{value:.5g}")


def sides_of(table: Table) -> tuple[Side, ...]:
    """The arms of a table, each with its regime and family."""
    parts = parts_of(table)
    return tuple(dict.fromkeys(Side(arm, part.regime, part.family) for part in parts for arm in part.arms))


def _row(table: Table, side: Side, runs: Runs, resamples: int) -> dict[str, Any] | None:
    """One arm; None where no seed has finished."""
    found = runs.of(side)
    if not found:
        return None
    any_run = next(iter(found.values()))
    tested, trained = (
        [scores for run in found.values() if (scores := run.scores(split)) is not None] for split in ("test", "train")
    )
    return {
        "family": side.family,
        "regime": side.regime,
        "arm": side.arm,
        "worlds": tested[0].worlds if tested else 0,
        "steps": any_run.steps,
        "flow_weight": any_run.flow_weight,
        "parameters": dict(any_run.parameters),
        "test": _intervals(tested, resamples),
        "train": _intervals(trained, resamples),
        "by_seed": {str(seed): _seed(run) for seed, run in sorted(found.items())},
        "pseudo": dict(any_run.pseudo) if any_run.pseudo else None,
        "paper": paper_row(table, side),
    }


def _intervals(seeds: Sequence[Scores], resamples: int) -> dict[str, dict[str, float]]:
    """Of every measure and fact that all seeds have; worlds are drawn for all of them at once."""
    names = [name for name in (*MEASURES, *FACTS) if seeds and all(one.mean(name) is not None for one in seeds)]
    if not names:
        return {}
    drawn = drawn_means(np.stack([one.values[name] for name in names for one in seeds]), resamples)
    found = {}
    for place, name in enumerate(names):
        own = slice(place * len(seeds), (place + 1) * len(seeds))
        interval = seed_interval(Drawn(drawn.point[own], drawn.draws[:, own]))
        found[name] = {key: short(getattr(interval, key)) for key in ("mean", "low", "high")}
    return found


def _seed(run: Run) -> dict[str, Any]:
    return {
        "test": _means(run.test),
        "train": _means(run.train),
        "seconds": short(run.seconds),
        "diverged": run.diverged,
        "gradients": {k: short(v) for k, v in run.gradients.items()} if run.gradients else None,
    }


def _means(scores: Scores | None) -> dict[str, float]:
    if scores is None:
        return {}
    return {name: short(mean) for name in MEASURES if (mean := scores.mean(name)) is not None}


def _trivial(place: tuple[str, str], runs: Runs) -> dict[str, Any]:
    family, regime = place
    rows = {name: _means(scores) for name, scores in runs.trivial[place].items()}
    return {"family": family, "regime": regime, "rows": rows}


def _families_and_regimes(sides: Iterable[Side]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((side.family, side.regime) for side in sides))


def _claim(made: Decision) -> dict[str, Any]:
    claim, interval = made.claim, made.interval
    told: dict[str, Any] = {"id": claim.id, "claim": claim.claim, "source": claim.source}
    if isinstance(claim, Conjunction):
        told |= {"parts": list(claim.parts)}
    else:
        told |= {
            "measure": claim.measure,
            "better": [f"{name_of(side)} ({side.split})" for side in claim.better],
            "worse": [f"{name_of(side)} ({side.split})" for side in claim.worse],
            "grows_with": claim.grows_with,
        }
    return {
        **told,
        "verdict": made.verdict,
        "why": made.why,
        "difference": None if interval is None else short(interval.mean),
        "low": None if interval is None else short(interval.low),
        "high": None if interval is None else short(interval.high),
        "by_seed": None if made.by_seed is None else {str(seed): short(v) for seed, v in made.by_seed.items()},
        "worlds": made.worlds,
        "missing": list(made.missing),
        "diverged": list(made.diverged),
    }


def _by_fact(runs: Runs, resamples: int) -> list[dict[str, Any]]:
    """Errors on moving worlds in groups of as much motion."""
    curves = []
    for arm in COMPARED:
        scores = [run.test for _, run in sorted(runs.of(Side(arm)).items()) if run.test is not None]
        for fact in FACTS if scores else ():
            for measure in BY_FACT:
                bins = list(_bins(scores, fact, measure, resamples))
                curves.append({"arm": arm, "fact": fact, "measure": measure, "bins": bins})
    return curves


def _bins(scores: Sequence[Scores], fact: str, measure: str, resamples: int) -> Iterable[Mapping[str, Any]]:
    amount = scores[0].values[fact]
    values = np.stack([one.values[measure] for one in scores])
    for group in _groups(fact, amount):
        if group.sum() > 1:
            interval = seed_interval(drawn_means(values[:, group], resamples))
            yield {
                "at": short(float(amount[group].mean())),
                "from": short(float(amount[group].min())),
                "to": short(float(amount[group].max())),
                "worlds": int(group.sum()),
                **{key: short(getattr(interval, key)) for key in ("mean", "low", "high")},
            }


def _groups(fact: str, amount: Float[np.ndarray, "W"]) -> list[Bool[np.ndarray, "W"]]:
    if fact in COUNTS:
        return [(amount >= low) & (amount < high) for low, high in zip(COUNTS[fact], COUNTS[fact][1:])]
    place = ranks(amount) * QUANTILES // len(amount)
    return [place == k for k in range(QUANTILES)]


def _flow_and_pose(sides: Sequence[Side], runs: Runs) -> list[dict[str, Any]]:
    """Over the arms with flow of a regime, whether lower AEPE goes with lower rotation error: Spearman's rank
    correlation, of each seed."""
    found = []
    for family, regime in _families_and_regimes(sides):
        arms = [side for side in sides if (side.family, side.regime) == (family, regime)]
        by_seed = {}
        for seed in range(SEEDS):
            tested = [run.test for side in arms if (run := runs.of(side).get(seed)) is not None and run.test]
            pairs = [(one.mean("aepe"), one.mean("rotation")) for one in tested if one.mean("aepe") is not None]
            if len(pairs) > 2:
                aepe, rotation = (ranks(np.array(column)) for column in zip(*pairs))
                by_seed[str(seed)] = short(float(np.corrcoef(aepe, rotation)[0, 1]))
        if by_seed:
            told = {"mean": short(float(np.mean(list(by_seed.values())))), "by_seed": by_seed}
            found.append({"family": family, "regime": regime, **told})
    return found
