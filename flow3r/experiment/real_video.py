"""The comparison on real clips: they are the unlabelled domain, real sequences with ground truth are the test.

Labels are those of the `dynamic` regime's worlds, and every arm forks from the base of that regime's seed, with the
weight of the flow loss that was chosen there: nothing is chosen by real data. The flow of clips is the embedded
teacher's. Runs lie in OUT/<schedule>/<family>/real/<arm>/seed<s>, as those of other regimes do.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from flow3r.config import TrainConfig
from flow3r.data.kept_worlds import KeptSequences
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Weighted
from flow3r.data.video import content_sha256
from flow3r.errors import InputError, TrainingError
from flow3r.eval.predictors import fixed_poses, identity, model_predictor, truth
from flow3r.experiment.arms import BASE, Arm, Family, arm_called
from flow3r.experiment.pool import in_order
from flow3r.experiment.provenance import START, program, read_json, refuse_another, refuse_another_start, start_of
from flow3r.experiment.real_clips import (
    ClipsOfFolder,
    Squares,
    clips_of_folder,
    label_clips,
    labels_by_clip,
    taught_by,
    together,
)
from flow3r.experiment.real_tests import RealTests, measured_on, method_on, open_tests
from flow3r.experiment.result_files import RESULT, VERSION
from flow3r.experiment.runs import (
    Run,
    chosen_weight,
    divergence_of,
    gradients_of,
    is_chosen,
    parameters_of,
    read_log,
    seconds_of,
    swept,
)
from flow3r.experiment.scores import Measures, mean_of, mean_poses, measured
from flow3r.experiment.stages import WEIGHTS, Experiment, Job, Keep
from flow3r.files import write_json
from flow3r.model.checkpoints import Model, load_model
from flow3r.nn.precision import choose_device
from flow3r.train.loop import train

REGIME, OF_LABELS = "real", "dynamic"  # the regime, and the one whose labelled worlds and bases it has
TRANSDUCTIVE = "flow-factored-transductive"  # learns from the excluded clips too
OF_WORLDS = "flow-factored-worlds"  # flow-factored of OF_LABELS: its unlabelled domain is worlds
TAKEN = {BASE: BASE, "3d-sup": "3d-sup", OF_WORLDS: "flow-factored"}  # measured here, trained in OF_LABELS
TRAINED = {name: name for name in ("flow-factored", "flow-tracking", "flow-projective")}
TRAINED[TRANSDUCTIVE] = "flow-factored"
ARMS = (*TAKEN, *TRAINED)
CLIPS = "clips.json"  # in the folder of a run: what it learnt from


@dataclass(frozen=True)
class Footage:
    """A folder of clips, a folder of sequences to test on, and the folder of the clips' labels."""

    videos: Path
    sequences: Path
    labels: Path

    @cached_property
    def tests(self) -> RealTests:
        return open_tests(self.sequences)

    @cached_property
    def clips(self) -> ClipsOfFolder:
        return clips_of_folder(self.videos, tuple(self.tests.sequences.values()))

    @property
    def excluded(self) -> tuple[Squares, ...]:
        """Clips that teach the transductive row alone."""
        return tuple(clip for clip, _ in self.clips.excluded)

    def store(self, which: "Which") -> Path:
        """Of the labels of one of the two kinds of clips."""
        return self.labels / which

    @cached_property
    def content(self) -> dict[str, dict[str, str]]:
        """The hash of every clip by its name, for both kinds."""
        kinds = {"labels": self.clips.allowed, "excluded": self.excluded}
        return {kind: {clip.name: content_sha256(clip) for clip in clips} for kind, clips in kinds.items()}

    def taught(self, transductive: bool) -> Weighted:
        """What is drawn of the labels, in proportion to the pairs of each kind of clips."""
        parts = [taught_by(self.clips.allowed, LabelStore(self.store("labels")))]
        if transductive:
            parts.append(taught_by(self.excluded, LabelStore(self.store("excluded")), transductive=True))
        return together(*parts)


Which = Literal["labels", "excluded"]


@dataclass(frozen=True)
class LabelledClips:
    """The labels of the clips that may teach, or of those that are excluded."""

    footage: Footage
    which: Which

    @property
    def key(self) -> str:
        return f"{REGIME}/{self.which}"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        return ()

    def steps(self, experiment: Experiment) -> int:
        return 0

    def is_done(self, experiment: Experiment) -> bool:
        return self._mark.is_file() and read_json(self._mark) == self.footage.content[self.which]

    def do(self, experiment: Experiment) -> str:
        """Raises InputError where a clip cannot be labelled."""
        clips = self.footage.clips.allowed if self.which == "labels" else self.footage.excluded
        summary = label_clips(clips, self.footage.store(self.which), progress=False)
        if summary.failures:
            raise InputError("; ".join(f"{name}: {why}" for name, why in summary.failures))
        write_json(self._mark, self.footage.content[self.which])
        return summary.lines()[0]

    @property
    def _mark(self) -> Path:
        return self.footage.labels / f"{self.which}.json"


@dataclass(frozen=True)
class RealRun:
    """An arm that learns from real clips, or one of OF_LABELS, measured on real sequences."""

    footage: Footage
    arm: str
    seed: int
    family: Family = "vggt"

    @property
    def key(self) -> str:
        return f"{self.family}/{REGIME}/{self.arm}/seed{self.seed}"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        if self._trained is None:
            return (self._start(experiment),)
        regime = experiment.regime(OF_LABELS)
        kinds: tuple[Which, ...] = ("labels", "excluded") if self.arm == TRANSDUCTIVE else ("labels",)
        weight = swept(self.family, self._trained.head.kind) if experiment.flow_weight is None else ()
        worlds = (Keep(regime.labelled, "learnt"), Keep(regime.validation, "measured"))
        return (*worlds, *(LabelledClips(self.footage, kind) for kind in kinds), self._start(experiment), *weight)

    def steps(self, experiment: Experiment) -> int:
        return 0 if self._trained is None else experiment.schedule.fork

    def config(self, experiment: Experiment, flow_weight: float | None) -> TrainConfig:
        """What is trained, or was for OF_LABELS."""
        if self._trained is None:
            return self._start(experiment).config(experiment, flow_weight)
        weights = str(experiment.folder / self._start(experiment).key / WEIGHTS)
        options = {"steps": self.steps(experiment), "seed": self.seed, "flow_weight": flow_weight}
        return experiment.schedule.scaled(self._trained.config(self.family, init_from=weights, **options))

    def is_done(self, experiment: Experiment) -> bool:
        """Measured on the same frames. Raises TrainingError where a run of other settings, or from other weights, is
        finished."""
        folder = experiment.folder / self.key
        if not (folder / RESULT).is_file():
            return False
        result = read_json(folder / RESULT)
        refuse_another_start(folder, result, experiment.folder / self._start(experiment).key / WEIGHTS)
        if (folder / "config.json").is_file():
            chosen = is_chosen(experiment, self.family, self._trained.head.kind)
            weight = self._weight(experiment) if chosen else result["flow_weight"]
            refuse_another(folder, self.config(experiment, weight))
            self._refuse_other_clips(folder)
        return result["tests"] == self.footage.tests.manifest.sha256

    def do(self, experiment: Experiment) -> str:
        start = experiment.folder / self._start(experiment).key
        before = read_json(start / RESULT)
        if self._trained is None:
            model = None if before["diverged"] else load_model(start / WEIGHTS).to(choose_device(experiment.device))
            return self._leave(experiment, model, before["flow_weight"], before["diverged"], start)
        folder, weight = experiment.folder / self.key, self._weight(experiment)
        if before["diverged"]:
            return self._leave(experiment, None, weight, f"its base diverged: {before['diverged']}", folder)
        self._refuse_other_clips(folder)
        write_json(folder / CLIPS, self._learns_from)
        labelled = KeptSequences(experiment.stores.learnt_from(experiment.regime(OF_LABELS).labelled))
        sources = {"labelled": labelled, "clips": self.footage.taught(self.arm == TRANSDUCTIVE)}
        diverged = divergence_of(folder)
        if diverged:
            return self._leave(experiment, None, weight, diverged, folder)
        config, device = self.config(experiment, weight), choose_device(experiment.device)
        try:
            model = train(config, folder, **sources, device=device, quiet=True).model
        except TrainingError as error:
            if not divergence_of(folder):
                raise
            return self._leave(experiment, None, weight, str(error).split(";")[0], folder)
        return self._leave(experiment, model, weight, None, folder)

    @property
    def _trained(self) -> Arm | None:
        """What is trained here; None for what is taken from OF_LABELS."""
        return arm_called(TRAINED[self.arm]) if self.arm in TRAINED else None

    def _start(self, experiment: Experiment) -> Run:
        """The base that it forks from, or the run that is taken."""
        arm = TAKEN.get(self.arm, BASE)
        return Run(self.family, experiment.base_regime(OF_LABELS) if arm == BASE else OF_LABELS, arm, self.seed)

    def _weight(self, experiment: Experiment) -> float:
        given = experiment.flow_weight
        return chosen_weight(experiment, self.family, self._trained.head.kind) if given is None else given

    @property
    def _learns_from(self) -> dict[str, str]:
        content = self.footage.content
        return content["labels"] | (content["excluded"] if self.arm == TRANSDUCTIVE else {})

    def _refuse_other_clips(self, folder: Path) -> None:
        written = read_json(folder / CLIPS) if (folder / CLIPS).is_file() else self._learns_from
        if written != self._learns_from:
            differing = sorted(name for name, _ in written.items() ^ self._learns_from.items())
            raise TrainingError(
                f"{folder}: learns from other clips ({', '.join(dict.fromkeys(differing))}); choose another --out, or "
                "delete this run"
            )

    def _leave(
        self, experiment: Experiment, model: Model | None, weight: float | None, diverged: str | None, trained: Path
    ) -> str:
        """Measure a model, if there is one, and write the result."""
        tests, found = self.footage.tests, {"test": None, "train": None, "validation": None}
        if model is not None:
            predictor = model_predictor(model.eval(), project=False)
            measures = measured_on(tests, predictor)
            worlds = experiment.stores.measured(experiment.regime(OF_LABELS).validation)
            found |= {"test": as_result(tests, measures), "validation": mean_of(measured(predictor, worlds))}
        config, records = self.config(experiment, weight), read_log(trained / "log.jsonl")
        result = {
            "version": VERSION,
            "schedule": experiment.schedule.name,
            "family": self.family,
            "regime": REGIME,
            "arm": self.arm,
            "seed": self.seed,
            "steps": config.steps,
            "flow_weight": weight,
            "parameters": parameters_of(config),
            "seconds": seconds_of(records),
            "diverged": diverged,
            "gradients": gradients_of(records),
            "tests": tests.manifest.sha256,
            START: start_of(experiment.folder / self._start(experiment).key / WEIGHTS),
            "program": program(),
            **found,
        }
        write_json(experiment.folder / self.key / RESULT, result)
        return f"diverged: {diverged}" if diverged else said_of(measures)


@dataclass(frozen=True)
class RealTrivial:
    """What no learning scores on the real sequences, and what the classical baseline does, in `trivial.json`."""

    footage: Footage
    family: Family = "vggt"

    @property
    def key(self) -> str:
        return f"{self.family}/{REGIME}/trivial"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        return (Keep(experiment.regime(OF_LABELS).labelled, "learnt"),)

    def steps(self, experiment: Experiment) -> int:
        return 0

    def is_done(self, experiment: Experiment) -> bool:
        path = experiment.folder / f"{self.key}.json"
        return path.is_file() and read_json(path)["tests"] == self.footage.tests.manifest.sha256

    def do(self, experiment: Experiment) -> str:
        tests, labelled = self.footage.tests, experiment.stores.learnt_from(experiment.regime(OF_LABELS).labelled)
        predictors = {"identity": identity, "mean pose": fixed_poses(mean_poses(labelled)), "oracle": truth}
        rows = {name: measured_on(tests, predictor) for name, predictor in predictors.items()}
        left_out = ""
        try:
            from flow3r.eval.methods.classical_sfm import ClassicalMethod

            rows["classical"] = method_on(tests, ClassicalMethod())
        except InputError as error:
            left_out = f"; classical is left out: {error}"
        found = {name: as_result(tests, row) for name, row in rows.items()}
        told = {"version": VERSION, "family": self.family, "regime": REGIME, "tests": tests.manifest.sha256}
        write_json(experiment.folder / f"{self.key}.json", {**told, "rows": found})
        return "; ".join(f"{name}: {said_of(row)}" for name, row in rows.items()) + left_out


def as_result(tests: RealTests, measures: Measures) -> dict[str, Any]:
    """Measures as result files have them: the sequences stand where worlds do."""
    return {"worlds": len(tests.names), "names": list(tests.names), "measures": measures}


def said_of(measures: Measures) -> str:
    """The measures that decide, as means."""
    means = mean_of(measures)
    return ", ".join(f"{name} {means[name]:.4g}" for name in ("auc@30", "rotation", "mse") if name in means)


def real_jobs(
    experiment: Experiment, footage: Footage, *, seeds: Sequence[int] = (), arms: Collection[str] = ()
) -> list[Job]:
    """All that the comparison takes, in order. Raises InputError for an arm that it does not have."""
    unknown = sorted(set(arms) - set(ARMS))
    if unknown:
        raise InputError(f"real has no {', '.join(unknown)}; expected some of {', '.join(ARMS)}")
    chosen = [arm for arm in ARMS if (arm in arms if arms else arm != TRANSDUCTIVE or footage.excluded)]
    runs = [RealRun(footage, arm, seed) for arm in chosen for seed in seeds or experiment.schedule.seeds]
    return in_order(experiment, (*runs, RealTrivial(footage)))


def said_of_footage(footage: Footage) -> Iterator[str]:
    """Which clips teach, which do not and why, and what is tested; of stores that are there, pairs by clip."""
    yield from footage.clips.lines()
    yield from footage.tests.lines()
    for which in ("labels", "excluded"):
        if (footage.store(which) / "manifest.json").is_file():
            rows = labels_by_clip(LabelStore(footage.store(which)))
            yield f"{which}: " + ", ".join(f"{row.name} {row.accepted} pairs" for row in rows)
