"""Writes folders of results as the runs leave them, of arms whose true worth is chosen."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from flow3r.experiment.claims import Side

# Worth in points of AUC@30, and AEPE in pixels: a world in which what the paper says is so.
WORTH = {
    "base": 0.0, "3d-sup": 4.0, "3d-sup-exposures": 2.0, "3d-sup-shared": 4.5, "flow-projective": 0.0,
    "flow-tracking": 5.0, "flow-factored": 12.0, "flow-projective+sceneflow": 3.0, "flow-factored-pose": 8.0,
    "flow-factored-camera8": 11.0, "flow-factored-camera32": 12.0, "flow-factored-shared": 13.0, "labelled-flow": 6.0,
    "full": 13.0, "flow-factored-noise1": 11.0, "flow-factored-noise3": 8.0, "flow-factored-wrong20": 9.0,
    "flow-factored-teacher": 9.5, "flow-factored-corrected": 10.5, "pseudo-3d": 7.0,
}  # fmt: skip
AEPE = {
    "flow-projective": 24.0, "flow-projective+sceneflow": 20.0, "flow-tracking": 6.0, "flow-factored": 9.0,
    "flow-factored-pose": 14.0, "flow-factored-camera8": 11.0, "flow-factored-camera32": 9.5,
}  # fmt: skip
REGIME_WORTH = {"dynamic-10": 3.0, "dynamic-20": 5.0, "dynamic-4x-labelled": 4.0, "static": 2.0}


@dataclass(frozen=True)
class Truth:
    """How results scatter."""

    worlds: int = 60
    seeds: tuple[int, ...] = (0, 1, 2)
    between_seeds: float = 0.5  # points
    between_worlds: float = 8.0
    within: float = 4.0  # of a seed on a world
    area: float = 0.0  # points lost where all of a frame moves


def write_arm(
    out: Path,
    side: Side,
    worth: float,
    truth: Truth = Truth(),
    *,
    aepe: float | None = None,
    diverged: Iterable[int] = (),
    schedule: str = "cpu",
) -> None:
    """The results of one arm for all seeds."""
    for seed in truth.seeds:
        folder = out / schedule / side.family / side.regime / side.arm / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        ended = "step 211: the loss is nan" if seed in diverged else None
        content = result(side, seed, worth, truth, aepe, schedule) | {"diverged": ended}
        (folder / "result.json").write_text(json.dumps(content))


def result(side: Side, seed: int, worth: float, truth: Truth, aepe: float | None, schedule: str = "cpu") -> dict:
    """What a run leaves."""
    flow = side.arm.startswith("flow-") or side.arm in ("full", "labelled-flow")
    learns = flow and side.arm != "labelled-flow"
    random = _random(side, seed)
    test = measures(side, random, worth, truth, truth.worlds, "test", aepe if flow else None)
    return {
        "version": 1,
        "schedule": schedule,
        "family": side.family,
        "regime": side.regime,
        "arm": side.arm,
        "seed": seed,
        "steps": 500,
        "flow_weight": 1.0 if flow else None,
        "parameters": {"all": 2_100_000 if flow else 1_700_000, "flow_head": 400_000 if flow else 0},
        "seconds": 350.0,
        "diverged": None,
        "gradients": _gradients(side.arm, random) if learns else None,
        "test": {"worlds": truth.worlds, "measures": test},
        "train": {"worlds": 20, "measures": measures(side, random, worth + 8, truth, 20, "train", None)},
        "validation": {"auc@30": 30 + worth},
    }


def measures(
    side: Side, random: np.random.Generator, worth: float, truth: Truth, worlds: int, split: str, aepe: float | None
) -> dict[str, list[float | None]]:
    """Of every measure a value for each world; the worlds of a split are the same for all runs."""
    shared = np.random.default_rng([len(split), worlds])
    ease = shared.normal(0, truth.between_worlds, worlds)
    area = shared.uniform(0, 0.4, worlds)
    own = random.normal(0, truth.between_seeds) + random.normal(0, truth.within, worlds)
    auc = 40 + worth + ease + own - truth.area * area
    found = {name: (auc + shift).tolist() for name, shift in (("rra@30", 30), ("rta@30", 20), ("auc@30", 0))}
    found |= {name: (auc / 4).tolist() for name in ("rra@5", "rta@5", "auc@5")}
    found |= {name: (auc / 2).tolist() for name in ("rra@15", "rta@15")}
    found |= {"rotation": (60 - auc / 2).tolist(), "mse": (1 - auc / 100).tolist()}
    found |= {"cd": (0.3 - auc / 1000).tolist(), "abs_rel": (0.5 - auc / 500).tolist()}
    found |= {"moving_objects": np.round(area * 12).tolist(), "moving_area": area.tolist()}
    if aepe is not None:
        errors = aepe - 0.1 * ease + random.normal(0, 1, worlds)
        found |= {"aepe": [None, *errors[1:].tolist()], "5px": [None, *(100 - 3 * errors[1:]).tolist()]}
    return found


def write_all(out: Path, sides: Iterable[Side], truth: Truth = Truth(), worth: Mapping[str, float] = WORTH) -> None:
    """All of these arms, worth what the tables above say, trivial rows and the sweep."""
    for side in sides:
        write_arm(out, side, worth[side.arm] + REGIME_WORTH.get(side.regime, 0.0), truth, aepe=AEPE.get(side.arm, 10.0))
    for family, regime in sorted({(side.family, side.regime) for side in sides}):
        write_trivial(out, family, regime, truth)


def write_trivial(out: Path, family: str, regime: str, truth: Truth = Truth()) -> None:
    """Rows without learning."""
    side, random = Side("none", regime, family), np.random.default_rng(5)
    rows = {
        name: {
            "worlds": truth.worlds,
            "measures": measures(side, random, worth, Truth(between_worlds=1, within=1), truth.worlds, "test", 30.0),
        }
        for name, worth in (("identity", -30.0), ("mean pose", -25.0), ("oracle", 60.0))
    }
    folder = out / "cpu" / family / regime
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trivial.json").write_text(json.dumps({"version": 1, "rows": rows}))


def _gradients(arm: str, random: np.random.Generator) -> dict[str, float]:
    wild = 8.0 if "projective" in arm else 1.0
    return {
        "flow_norm": wild * random.uniform(0.8, 1.2),
        "labelled_norm": random.uniform(2.0, 2.4),
        "cosine": random.uniform(-0.05, 0.15),
        "steps": 10,
    }


def _random(side: Side, seed: int) -> np.random.Generator:
    """Of a run, whatever else is written."""
    name = f"{side.family}/{side.regime}/{side.arm}/{seed}"
    return np.random.default_rng(int.from_bytes(sha256(name.encode()).digest()[:8], "big"))
