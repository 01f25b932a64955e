"""One run of an experiment: what it starts from, learns from and is measured on, and the result that it leaves.

A chain of one seed is matching, a base for each family and labelled set, and arms that fork from a base, each in
`<family>/<regime>/<arm>/seed<s>`: the folder of a training run, and its `result.json`.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flow3r.config import TrainConfig, VggtConfig
from flow3r.data.kept_worlds import KeptWorlds
from flow3r.errors import TrainingError
from flow3r.eval.predictors import model_predictor
from flow3r.experiment.arms import BASE, FLOW_WEIGHTS, Arm, Family, arm_called
from flow3r.experiment.provenance import START, program, read_json, refuse_another, refuse_another_start, start_of
from flow3r.experiment.result_files import RESULT, SWEEP, VERSION
from flow3r.experiment.scores import mean_of, measured, trivial_rows
from flow3r.experiment.sources import FLAWS, MOST_KEPT, sources_of
from flow3r.experiment.stages import WEIGHTS, Experiment, Job, Keep, Matching
from flow3r.files import write_json
from flow3r.model.checkpoints import MODEL_OF, Model, load_model
from flow3r.nn.precision import choose_device
from flow3r.train.loop import train

SWEPT_IN, SWEPT_SEED, SWEPT_BY = "dynamic", 0, "auc@30"  # where weights are tried, and by what of validation chosen
SWEPT_AS = {  # kind of head -> the arm that its weights are tried with
    "factored": "flow-factored",
    "tracking": "flow-tracking",
    "projective": "flow-projective",
    "projective+sceneflow": "flow-projective+sceneflow",
}
PROBES = {"flow_norm": "probe/flow", "labelled_norm": "probe/labelled", "cosine": "probe/cosine"}  # of log.jsonl


@dataclass(frozen=True)
class Run:
    """An arm of a family in a regime from one seed, or the base of all arms. `tried`: for a few steps, a weight of the
    flow loss, of which validation alone is measured."""

    family: Family
    regime: str
    arm: str
    seed: int
    tried: float | None = None

    @property
    def key(self) -> str:
        if self.tried is not None:
            return f"sweep/{self.family}/{self.arm}/{self.tried:g}/seed{self.seed}"
        return f"{self.family}/{self.regime}/{self.arm}/seed{self.seed}"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        """Worlds, what it starts from, and, for a flow loss whose weight is not given, what that is chosen by."""
        regime, flow = experiment.regime(self.regime), self.arm != BASE and self._arm.labelled_flow
        needed: list[Job] = [Keep(regime.labelled, "learnt-flow" if flow else "learnt")]
        needed.append(Keep(regime.validation, "measured"))
        if self.tried is None:
            needed.append(Keep(regime.test, "measured"))
        if self.arm == BASE and self._trains(experiment):
            return (*needed, Matching(self.seed))
        needed.append(self._base(experiment))
        if self.arm != BASE:
            if self._arm.unlabelled in ("teacher", "corrected"):
                needed.append(Keep(regime.unlabelled, "taught"))
            elif self._arm.unlabelled == "pseudo":
                needed.append(Keep(regime.unlabelled, "solved"))
            elif self._arm.unlabelled in FLAWS and regime.unlabelled.count <= MOST_KEPT:
                needed.append(Keep(regime.unlabelled, "learnt-flow"))
            if self.tried is None and self._arm.head is not None and experiment.flow_weight is None:
                needed += swept(self.family, self._arm.head.kind)
        return tuple(needed)

    def steps(self, experiment: Experiment) -> int:
        return self.config(experiment, 1.0).steps if self._trains(experiment) else 0

    def config(self, experiment: Experiment, flow_weight: float | None) -> TrainConfig:
        """What is trained; the weight of the flow loss is for arms that have one."""
        schedule = experiment.schedule
        if self.arm == BASE:
            arm, steps, start = Arm(BASE), schedule.base, Matching(self.seed).key
        else:
            arm, start = self._arm, self._base(experiment).key
            steps = schedule.fork if self.tried is None else schedule.sweep
        weight, weights = flow_weight if arm.head is not None else None, str(experiment.folder / start / WEIGHTS)
        config = arm.config(self.family, steps=steps, seed=self.seed, flow_weight=weight, init_from=weights)
        return schedule.scaled(config)

    def flow_weight(self, experiment: Experiment) -> float | None:
        """Of its flow loss: the one that is tried, or given, or was found best; None without a flow head."""
        if self.arm == BASE or self._arm.head is None:
            return None
        if self.tried is not None:
            return self.tried
        if experiment.flow_weight is not None:
            return experiment.flow_weight
        return chosen_weight(experiment, self.family, self._arm.head.kind)

    def start(self, experiment: Experiment) -> Path:
        """The weights that it starts from, or, of the base of another regime, that are measured."""
        if self.arm == BASE and self._trains(experiment):
            return experiment.folder / Matching(self.seed).key / WEIGHTS
        return experiment.folder / self._base(experiment).key / WEIGHTS

    def is_done(self, experiment: Experiment) -> bool:
        """Raises TrainingError where a run of other settings, or from other weights, is finished."""
        folder = experiment.folder / self.key
        if not (folder / RESULT).is_file():
            return False
        result = read_json(folder / RESULT)
        refuse_another_start(folder, result, self.start(experiment))
        if (folder / "config.json").is_file():
            weight = self.flow_weight(experiment) if self._weight_is_known(experiment) else result["flow_weight"]
            refuse_another(folder, self.config(experiment, weight))
        return True

    def do(self, experiment: Experiment) -> str:
        folder, base = experiment.folder / self.key, self._base(experiment)
        weight, start = self.flow_weight(experiment), experiment.folder / base.key
        failed = read_json(start / RESULT)["diverged"] if base != self else None
        if failed:
            return self._leave(experiment, None, weight, f"its base diverged: {failed}")
        if not self._trains(experiment):
            model = load_model(start / WEIGHTS).to(choose_device(experiment.device)).eval()
            return self._leave(experiment, model, weight)
        diverged = divergence_of(folder)
        if diverged:  # found by a process that ended before it said so
            return self._leave(experiment, None, weight, diverged)
        config, device = self.config(experiment, weight), choose_device(experiment.device)
        arm = Arm(BASE) if self.arm == BASE else self._arm
        renders = device if experiment.schedule.render_on_device else "cpu"
        labelled, clips = sources_of(arm, experiment.regime(self.regime), experiment.stores, renders)
        try:
            result = train(config, folder, labelled=labelled, clips=clips, device=device, quiet=True)
        except TrainingError as error:
            if not divergence_of(folder):
                raise
            return self._leave(experiment, None, weight, str(error).split(";")[0])
        return self._leave(experiment, result.model, weight)

    @property
    def _arm(self) -> Arm:
        return arm_called(self.arm)

    def _weight_is_known(self, experiment: Experiment) -> bool:
        if self.arm == BASE or self._arm.head is None or self.tried is not None:
            return True
        return is_chosen(experiment, self.family, self._arm.head.kind)

    def _base(self, experiment: Experiment) -> "Run":
        return Run(self.family, experiment.base_regime(self.regime), BASE, self.seed)

    def _trains(self, experiment: Experiment) -> bool:
        """Whether it is more than the base of another regime, measured in this one."""
        return self.arm != BASE or self == self._base(experiment)

    def _leave(
        self, experiment: Experiment, model: Model | None, weight: float | None, diverged: str | None = None
    ) -> str:
        """Measure a model, if there is one, and write the result."""
        folder = experiment.folder / self.key
        trained = folder if self._trains(experiment) else experiment.folder / self._base(experiment).key
        records = read_log(trained / "log.jsonl")
        result = {
            "version": VERSION,
            "schedule": experiment.schedule.name,
            "family": self.family,
            "regime": self.regime,
            "arm": self.arm,
            "seed": self.seed,
            "steps": self.steps(experiment) or self._base(experiment).steps(experiment),
            "flow_weight": weight,
            "parameters": parameters_of(self.config(experiment, weight)),
            "seconds": seconds_of(records),
            "diverged": diverged,
            "gradients": gradients_of(records),
            START: start_of(self.start(experiment)),
            "program": program(),
            **self._pseudo(experiment),
            **self._measured(experiment, model),
        }
        write_json(folder / RESULT, result)
        if diverged:
            return f"diverged: {diverged}"
        return f"{result['steps']} steps in {result['seconds']:.0f} s, " + ", ".join(
            f"{name} {result['validation'][name]:.4g}" for name in (SWEPT_BY, "mse")
        )

    def _pseudo(self, experiment: Experiment) -> dict[str, Any]:
        """Of an arm with pseudo 3D labels, how many worlds have some, and of those that failed how many and why."""
        if self.arm == BASE or self._arm.unlabelled != "pseudo":
            return {}
        labels = experiment.stores.pseudo(experiment.regime(self.regime).unlabelled)
        reasons = Counter(re.sub(r"[\d.]+", "N", why) for why in labels.failed.values())
        return {"pseudo": {"solved": len(labels.solved), "failed": dict(reasons.most_common())}}

    def _measured(self, experiment: Experiment, model: Model | None) -> dict[str, Any]:
        """Measures of the test worlds, of at most as many labelled ones as there are of validation, and of these."""
        if model is None:
            return {"test": None, "train": None, "validation": None}
        regime, stores = experiment.regime(self.regime), experiment.stores
        predictor = model_predictor(model, project=False)

        def of(kept: KeptWorlds, most: int | None = None, flow: bool = False) -> dict[str, Any]:
            measures = measured(predictor, kept, flow=flow, most=most)
            return {"worlds": len(measures["rotation"]), "measures": measures}

        validation = mean_of(of(stores.measured(regime.validation))["measures"])
        if self.tried is not None:
            return {"test": None, "train": None, "validation": validation}
        labelled = stores.learnt_from(regime.labelled, flow=self.arm != BASE and self._arm.labelled_flow)
        return {
            "test": of(stores.measured(regime.test), flow=True),
            "train": of(labelled, most=regime.validation.count),
            "validation": validation,
        }


@dataclass(frozen=True)
class Trivial:
    """What no learning scores in a regime, in `trivial.json`."""

    family: Family
    regime: str

    @property
    def key(self) -> str:
        return f"{self.family}/{self.regime}/trivial"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        regime = experiment.regime(self.regime)
        return Keep(regime.labelled, "learnt"), Keep(regime.test, "measured")

    def steps(self, experiment: Experiment) -> int:
        return 0

    def is_done(self, experiment: Experiment) -> bool:
        return (experiment.folder / f"{self.key}.json").is_file()

    def do(self, experiment: Experiment) -> str:
        regime, stores = experiment.regime(self.regime), experiment.stores
        rows = trivial_rows(stores.measured(regime.test), stores.learnt_from(regime.labelled))
        found = {name: {"worlds": regime.test.count, "measures": row} for name, row in rows.items()}
        told = {"version": VERSION, "family": self.family, "regime": self.regime, "rows": found}
        write_json(experiment.folder / f"{self.key}.json", told)
        return ", ".join(f"{name}: {SWEPT_BY} {mean_of(row)[SWEPT_BY]:.4g}" for name, row in rows.items())


def swept(family: Family, kind: str) -> tuple[Run, ...]:
    """The runs that the weight of a head's flow loss is chosen by."""
    return tuple(Run(family, SWEPT_IN, SWEPT_AS[kind], SWEPT_SEED, weight) for weight in FLOW_WEIGHTS)


def chosen_weight(experiment: Experiment, family: Family, kind: str) -> float:
    """The weight whose validation is best; the least one where all diverged."""
    results = {run.tried: read_json(experiment.folder / run.key / RESULT) for run in swept(family, kind)}
    values = {weight: result["validation"][SWEPT_BY] for weight, result in results.items() if result["validation"]}
    return max(values, key=values.__getitem__) if values else min(results)


def is_chosen(experiment: Experiment, family: Family, kind: str) -> bool:
    """Whether the weight of a head's flow loss is given, or all runs are done that it is chosen by."""
    tried = (experiment.folder / run.key / RESULT for run in swept(family, kind))
    return experiment.flow_weight is not None or all(path.is_file() for path in tried)


def write_sweep(experiment: Experiment) -> None:
    """What was tried so far, and the weights that are chosen where all are, in `sweep.json`."""
    runs, chosen = [], {}
    kinds = [(path.parent.name, path.name) for path in sorted((experiment.folder / "sweep").glob("*/*"))]
    for family, arm in kinds:
        kind = arm_called(arm).head.kind
        tried = [run for run in swept(family, kind) if (experiment.folder / run.key / RESULT).is_file()]
        for run in tried:
            result = read_json(experiment.folder / run.key / RESULT)
            value = result["validation"] and result["validation"][SWEPT_BY]
            told = {"family": family, "head": kind, "flow_weight": run.tried, SWEPT_BY: value}
            runs.append({**told, "diverged": result["diverged"]})
        if len(tried) == len(FLOW_WEIGHTS):
            chosen.setdefault(family, {})[kind] = chosen_weight(experiment, family, kind)
    settings = {"regime": SWEPT_IN, "seed": SWEPT_SEED, "steps": experiment.schedule.sweep, "measure": SWEPT_BY}
    write_json(experiment.folder / SWEEP, {"version": VERSION, **settings, "chosen": chosen, "runs": runs})


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a training run."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def seconds_of(records: list[dict[str, Any]]) -> float:
    """Wall seconds of the training steps, over all interruptions, by the pace of each stretch of the log."""
    seconds, before = 0.0, 0
    for record in records:
        if record.get("steps/s"):
            seconds, before = seconds + (record["step"] - before) / record["steps/s"], record["step"]
    return seconds


def gradients_of(records: list[dict[str, Any]]) -> dict[str, float | int] | None:
    """Means over the comparisons of the gradients of flow and labels; None without any."""
    found = [[record.get(name) for name in PROBES.values()] for record in records]
    whole = [values for values in found if None not in values]
    if not whole:
        return None
    means = (sum(column) / len(whole) for column in zip(*whole, strict=True))
    return dict(zip(PROBES, means, strict=True)) | {"steps": len(whole)}


def parameters_of(config: TrainConfig) -> dict[str, int]:
    """How many numbers a model has, and its flow head; a head of points that nothing asks is not counted."""
    with torch.device("meta"):
        model = MODEL_OF[type(config.model)](config.model)
    if isinstance(config.model, VggtConfig) and config.model.world_points == "depth":
        del model.point_head
    parts = {"all": model, "flow_head": model.flow_head}
    return {name: 0 if part is None else sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def divergence_of(folder: Path) -> str | None:
    """At which step a run met what is not finite, by the batch that it saved."""
    for saved in folder.glob("non_finite_step_*.pt"):
        return f"step {saved.stem.removeprefix('non_finite_step_')}: a loss or a gradient is not finite"
    return None
