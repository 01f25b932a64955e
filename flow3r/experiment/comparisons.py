"""Decides the claims of hypotheses.py, by the rule that stands there, from the runs that have finished."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from flow3r.eval.tables.intervals import RESAMPLES
from flow3r.experiment.claims import Conjunction, Hypothesis, Side
from flow3r.experiment.hypotheses import SEEDS
from flow3r.experiment.result_files import MEASURES, Run, Runs
from flow3r.experiment.seed_intervals import Drawn, SeedInterval, drawn_correlations, drawn_means, seed_interval

Verdict = Literal["supported", "contradicted", "undecided", "not run"]
ONE_SEED = "one seed decides nothing"


@dataclass(frozen=True)
class Decision:
    """What the runs say of a claim. Differences are positive where it holds, in the unit of its measure."""

    claim: Hypothesis | Conjunction
    verdict: Verdict
    why: str = ""  # where the interval alone does not say it
    interval: SeedInterval | None = None
    by_seed: Mapping[int, float] | None = None
    worlds: int = 0  # that the differences are of, in the mean over seeds
    missing: tuple[str, ...] = ()  # runs, and measures that no run has
    diverged: tuple[str, ...] = ()  # runs


def decide(
    claims: Iterable[Hypothesis], conjunctions: Iterable[Conjunction], runs: Runs, resamples: int = RESAMPLES
) -> tuple[Decision, ...]:
    """Every claim, in the order given, and then those of several parts."""
    found = {claim.id: decision(claim, runs, resamples) for claim in claims}
    for id, made in found.items():
        given = made.claim.presupposes
        if made.verdict == "supported" and given in found and found[given].verdict != "supported":
            why = f"it supposes what is {found[given].verdict}: {given}"
            found[id] = replace(made, verdict="undecided", why=why)
    return (*found.values(), *(together(one, found) for one in conjunctions if set(one.parts) <= set(found)))


def decision(claim: Hypothesis, runs: Runs, resamples: int = RESAMPLES) -> Decision:
    """One claim by itself, whatever it presupposes."""
    sides = (*claim.better, *claim.worse)
    missing = [f"{name_of(side)}/seed{seed}" for side in sides for seed in range(SEEDS) if seed not in runs.of(side)]
    diverged = [f"{name_of(side)}/seed{seed}" for side in sides for seed, run in runs.of(side).items() if run.diverged]
    lacking = [
        f"{claim.measure} of {name_of(side)}/seed{seed}"
        for side in sides
        for seed, run in runs.of(side).items()
        if not run.diverged and not _has(run, side, claim)
    ]
    seeds = [s for s in sorted(_common(runs.of(side) for side in sides)) if _usable(claim, runs, s)]
    facts = {"missing": tuple(dict.fromkeys((*missing, *lacking))), "diverged": tuple(dict.fromkeys(diverged))}
    if not seeds:
        verdict, why = _by_divergence(claim, runs)
        return Decision(claim, verdict, why, **facts)
    drawn, worlds = _drawn(claim, runs, seeds, resamples)
    interval = seed_interval(drawn)
    verdict, why = _verdict(claim, runs, interval)
    by_seed = {seed: float(value) for seed, value in zip(seeds, drawn.point, strict=True)}
    return Decision(claim, verdict, why, interval, by_seed, worlds, **facts)


def together(claim: Conjunction, found: Mapping[str, Decision]) -> Decision:
    """Supported if all parts are, contradicted if one is."""
    parts = [found[part] for part in claim.parts]
    verdicts = {part.verdict for part in parts}
    missing = tuple(dict.fromkeys(name for part in parts for name in part.missing))
    diverged = tuple(dict.fromkeys(name for part in parts for name in part.diverged))
    said = "; ".join(f"{part.claim.id}: {part.verdict}" for part in parts)
    verdict: Verdict = "undecided"
    if "contradicted" in verdicts:
        verdict = "contradicted"
    elif len(verdicts) == 1:
        (verdict,) = verdicts
    return Decision(claim, verdict, said, missing=missing, diverged=diverged)


def name_of(side: Side) -> str:
    """Where its runs lie below the schedule."""
    return f"{side.family}/{side.regime}/{side.arm}"


def _common(runs: Iterable[Mapping[int, Run]]) -> set[int]:
    return set.intersection(*map(set, runs))


def _has(run: Run, side: Side, claim: Hypothesis) -> bool:
    scores = run.scores(side.split)
    wanted = (claim.measure, claim.grows_with) if claim.grows_with else (claim.measure,)
    return scores is not None and all(scores.mean(name) is not None for name in wanted)


def _usable(claim: Hypothesis, runs: Runs, seed: int) -> bool:
    """Whether the runs of a seed have the measure, on some of the same worlds for all sides that are paired."""
    sides = (*claim.better, *claim.worse)
    if not all(_has(runs.of(side)[seed], side, claim) for side in sides):
        return False
    return all(not np.isnan(part).all() for part in _parts(claim, runs, [seed]))


def _drawn(claim: Hypothesis, runs: Runs, seeds: Sequence[int], resamples: int) -> tuple[Drawn, int]:
    """The claim's statistic in all draws of worlds, positive where it holds, and how many worlds a seed has."""
    parts = _parts(claim, runs, seeds)
    worlds = round(sum((~np.isnan(part)).sum() for part in parts) / len(seeds))
    if claim.grows_with:
        fact = runs.of(claim.worse[0])[seeds[0]].test.values[claim.grows_with]
        return drawn_correlations(parts[0], fact, resamples), worlds
    first, *others = (drawn_means(part, resamples, number) for number, part in enumerate(parts))
    for other in others:
        first = first - other
    return first, worlds


def _parts(claim: Hypothesis, runs: Runs, seeds: Sequence[int]) -> tuple[Float[np.ndarray, "S _"], ...]:
    """Values by seed and world, positive where the claim holds: of all sides together, where they are measured on the
    same worlds, and otherwise of the better side and, to be subtracted, of the worse one."""
    sign = 1.0 if MEASURES[claim.measure].better == "higher" else -1.0
    better, worse = (_mean_of(sides, claim.measure, runs, seeds) for sides in (claim.better, claim.worse))
    if better is None:
        return (-sign * worse,)
    if {side.split for side in claim.better} == {side.split for side in claim.worse}:
        return (sign * (better - worse),)
    return (sign * better, sign * worse)


def _mean_of(sides: Sequence[Side], measure: str, runs: Runs, seeds: Sequence[int]) -> Float[np.ndarray, "S _"] | None:
    """The mean of several arms on the worlds on which all have the measure; None without an arm."""
    values = [np.stack([runs.of(side)[s].scores(side.split).values[measure] for s in seeds]) for side in sides]
    return np.mean(values, axis=0) if values else None


def _verdict(claim: Hypothesis, runs: Runs, interval: SeedInterval) -> tuple[Verdict, str]:
    if interval.seeds < 2:
        return "undecided", ONE_SEED
    worse_diverged, better_diverged = (_diverged(sides, runs) for sides in (claim.worse, claim.better))
    if interval.low > 0:
        if better_diverged > worse_diverged:
            return "undecided", f"{better_diverged} runs of its better side diverged, {worse_diverged} of the other"
        return "supported", ""
    if interval.high < 0:
        if worse_diverged > better_diverged:
            return "undecided", f"{worse_diverged} runs of its worse side diverged, {better_diverged} of the other"
        return "contradicted", ""
    return "undecided", ""


def _by_divergence(claim: Hypothesis, runs: Runs) -> tuple[Verdict, str]:
    """What is said where no seed can be compared: divergence of all seeds of one side alone decides."""
    if not all(runs.of(side) for side in (*claim.better, *claim.worse)):
        return "not run", ""
    if not claim.better:  # of what is asked of one side, its divergence says nothing
        return "undecided", "no seed can be compared"
    of_all = {}
    for which, sides in (("better", claim.better), ("worse", claim.worse)):
        seeds = _common(map(runs.of, sides))
        of_all[which] = bool(seeds) and all(any(runs.of(side)[s].diverged for side in sides) for s in seeds)
    several = min(len(runs.of(side)) for side in (*claim.better, *claim.worse)) > 1
    if several and of_all["worse"] and not _diverged(claim.better, runs):
        return "supported", "all runs of its worse side diverged, and none of the other"
    if several and of_all["better"] and not _diverged(claim.worse, runs):
        return "contradicted", "all runs of its better side diverged, and none of the other"
    return "undecided", "no seed can be compared"


def _diverged(sides: Sequence[Side], runs: Runs) -> int:
    """Seeds on which a run of the side diverged."""
    return len({seed for side in sides for seed, run in runs.of(side).items() if run.diverged})
