"""The paper from raw data to its tables: label, train, predict, score, report, at its own scale or as a rehearsal."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flow3r.config import (
    BranchConfig,
    CameraHeadConfig,
    DataConfig,
    DenseHeadConfig,
    EncoderConfig,
    ModelConfig,
    SourceConfig,
    TrainConfig,
    VggtConfig,
)
from flow3r.data.catalogue import DATASETS
from flow3r.data.recipe import make_recipe
from flow3r.data.subsets import draw_subset
from flow3r.errors import InputError
from flow3r.eval.benchmarks import find_benchmark
from flow3r.eval.run import PAPER, Line, Run, fix_manifest, manifest_path
from flow3r.eval.tables.collect import Results
from flow3r.model.checkpoints import save_model
from flow3r.model.flow3r import Flow3r
from flow3r.model.vggt import Vggt
from flow3r.presets import PI3, PRESETS, THE_PAPERS, VGGT
from flow3r.teacher import teacher_called
from flow3r.teacher.label import label_videos
from flow3r.teacher.runners import rank_and_world
from flow3r.train.loop import train

TOY_BELOW = 0.01  # of the scale: less is a rehearsal with models that train in seconds
TOY_DRAWS, TOY_BUDGET = 1, 2_000  # of each sequence; points whose neighbours are sought
BASE_MODELS = {"pi3": PI3, "vggt": VGGT}  # rows of the tables that are trained by others
TRAINED = tuple(THE_PAPERS)

STAGES = ("label", "train", "evaluate")

MAIN = ("pi3", "vggt", "flow3r", "flow3r-vggt")  # tables 2, 3 and 8 to 15; DUSt3R and CUT3R write their own samples
TABLE_5 = tuple(name for name in TRAINED if name.startswith("table5-"))
STATIC = tuple(name for name in TRAINED if name.startswith("table1-static-"))
DYNAMIC = tuple(name for name in TRAINED if name.startswith(("table1-dynamic-", "table4-", "table7-")))
WITH_FLOW = tuple(name for name in DYNAMIC if PRESETS[name].model.flow is not None)
MEASURED = {  # benchmark -> whom the paper's tables measure on it
    **dict.fromkeys(PAPER, MAIN),
    "epic_kitchens": (*MAIN, *TABLE_5),
    "7scenes": (*MAIN, *TABLE_5),
    "scannetpp": STATIC,
    "omniworld": DYNAMIC,
    "spatialvid": WITH_FLOW,
}


@dataclass(frozen=True)
class Paper:
    """Where everything lies, and how much of it is done. `scale` 1 is the paper; below TOY_BELOW models are toys."""

    root: Path  # a folder for each dataset, by the name of its reader
    out: Path
    scale: float = 1.0
    teacher: str = "ufm"
    device: str | None = None
    beside: tuple[str, ...] = ("classical", "identity")  # rows that the paper has not

    @property
    def toy(self) -> bool:
        return self.scale < TOY_BELOW

    @property
    def labels(self) -> Path:
        return self.out / "labels"

    def weights(self, name: str) -> str:
        """Of a run, or of a model that others have trained: at the scale of toys a random one, made here."""
        if name in BASE_MODELS:
            return str(self.out / "public" / name) if self.toy else BASE_MODELS[name]
        return str(self.out / "runs" / name)

    def label(self, names: Sequence[str] = TRAINED) -> Iterator[str]:
        """Flow labels of all that runs learn from without labels; a line for each dataset. What is labelled stays."""
        tokens, teacher = self.scaled(PRESETS["flow3r"]).data.tokens, teacher_called(self.teacher)
        sources = dict.fromkeys(source for name in names for source in PRESETS[name].data.unlabelled)
        for dataset in dict.fromkeys(source.dataset for source in sources):
            reader, folder = DATASETS[dataset], self._folder(dataset)
            found = {sequence.name: sequence for sequence in reader.sequences(folder)}
            test = reader.held_out(folder)
            parts = [self._part(source, len(found)) for source in sources if source.dataset == dataset]
            wanted = dict.fromkeys(name for part in parts for name in draw_subset(part, found, test=test).names)
            clips, store = [found[name] for name in wanted], self.labels / dataset
            summary = label_videos(clips, store, teacher, tokens=tokens, progress=False)
            yield f"labels of {dataset}: " + "; ".join(line.strip() for line in summary.lines())

    def train(self, names: Sequence[str] = TRAINED) -> Iterator[str]:
        """All runs; a line for each. One that is done is passed over, one that was stopped goes on."""
        if self.toy:
            self._write_base_models()
        for name in names:
            if (Path(self.weights(name)) / "model.safetensors").is_file():
                yield f"{name}: there already"
                continue
            config = self.scaled(PRESETS[name])
            recipe = make_recipe(
                config.data,
                self.root,
                DATASETS,
                labels=self.labels,
                teacher=teacher_called(self.teacher),
                trainable=config.trainable,
            )
            sources = {"labelled": recipe.labelled or None, "clips": recipe.clips or None}
            result = train(config, self.weights(name), device=self.device, quiet=True, **sources)
            if rank_and_world()[0] == 0:
                recipe.write_lists(Path(self.weights(name)) / "sequences")
            yield f"{name}: {result.steps} steps in {result.seconds:.0f} s"

    def evaluate(self, workers: int = 1) -> Iterator[Line]:
        """Predict, score and report whatever is trained; a line for each method on each benchmark, with what failed.

        A benchmark whose data are not there is a failure, and stays empty in the tables.
        """
        for benchmark, methods in MEASURED.items():
            run = self._run(tuple(name for name in methods if self._is_there(name)), (benchmark,), workers)
            try:
                if self.toy and not manifest_path(self.out, benchmark).is_file():  # the committed are of the real data
                    found = find_benchmark(benchmark)
                    fix_manifest(found, found.select(self.root), self.out, TOY_DRAWS)
                yield from run.measure()
            except InputError as error:
                yield Line(f"{benchmark}: not measured: {error}", 1)
        for path in self._run(TRAINED, (), workers).report():
            yield Line(f"  {path}", 0)

    def results(self) -> tuple[Results, ...]:
        """All that has been scored."""
        return self._run(TRAINED, (), 1).results()

    def _run(self, names: Sequence[str], benchmarks: tuple[str, ...], workers: int) -> Run:
        methods = (*(f"{name}={self.weights(name)}" for name in names), *self.beside)
        budget = TOY_BUDGET if self.toy else None
        return Run(
            self.root,
            self.out,
            methods,
            benchmarks,
            budget=budget,
            workers=workers,
            device=self.device,
            pictures=not self.toy,
        )

    def _is_there(self, name: str) -> bool:
        """Whether a run is done, or its model is another's."""
        return name in BASE_MODELS or (Path(self.weights(name)) / "model.safetensors").is_file()

    def scaled(self, config: TrainConfig) -> TrainConfig:
        """A preset at this scale: steps and sequences in proportion, as many batches a step as its devices are; below
        TOY_BELOW with a toy of its model, on tiny images. Raises InputError where processes cannot share the batches
        of a step equally."""
        _, world = rank_and_world()
        if not self.toy and config.devices % world:
            raise InputError(
                f"{config.name}: a step has {config.devices} batches, which {world} processes cannot share equally; "
                f"start as many as divide {config.devices}"
            )
        data = replace(
            config.data,
            labelled=tuple(self._part(source) for source in config.data.labelled),
            unlabelled=tuple(self._part(source) for source in config.data.unlabelled),
        )
        config = replace(
            config,
            data=data,
            steps=max(2, round(config.steps * self.scale)),
            init_from=None if config.init_from is None else self._start(config.init_from),
            accumulate=max(1, config.devices // world),
        )
        return toy_run(config) if self.toy else config

    def _start(self, name: str) -> str:
        public = {public: name for name, public in BASE_MODELS.items()}
        return self.weights(public[name] if name in public else name.removeprefix("runs/"))

    def _part(self, source: SourceConfig, total: int | None = None) -> SourceConfig:
        count = source.sequences or total
        if self.scale >= 1 or count is None:
            return source
        if self.toy:  # as little as keeps labelled and unlabelled sequences of a dataset apart
            return replace(source, sequences=1, skip=min(1, source.skip))
        return replace(source, sequences=math.ceil(count * self.scale), skip=math.ceil(source.skip * self.scale))

    def _folder(self, dataset: str) -> Path:
        folder = self.root / dataset
        if not folder.is_dir():
            raise InputError(f"{folder}: missing; expected {DATASETS[dataset].title}: {DATASETS[dataset].layout}")
        return folder

    def _write_base_models(self) -> None:
        """Random toys in the place of what others have trained, the same in every rehearsal."""
        for name, config in (("pi3", ModelConfig(flow=None)), ("vggt", VggtConfig())):
            folder = Path(self.weights(name))
            if not folder.is_dir():
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(len(name))
                    toy = toy_model(config)
                    model = Flow3r(toy) if isinstance(toy, ModelConfig) else Vggt(toy)
                folder.mkdir(parents=True, exist_ok=True)
                save_model(model, folder)


def toy_model(model: ModelConfig | VggtConfig) -> ModelConfig | VggtConfig:
    """The same parts at sizes that train in seconds."""
    flow = model.flow and replace(model.flow, features=8, level_channels=(8, 12, 16, 16), output_channels=4)
    encoder = EncoderConfig(width=24, depth=1, heads=2, position_grid=3, registers=2)
    if isinstance(model, ModelConfig):
        multiview = replace(model.multiview, width=32, depth=4, heads=2)
        branch = BranchConfig(width=40, depth=4, heads=2, camera_width=24)
        return replace(model, encoder=encoder, multiview=multiview, branch=branch, flow=flow, tokens=(9, 12))
    return replace(
        model,
        encoder=encoder,
        multiview=replace(model.multiview, width=32, depth=8, heads=2),
        levels=(0, 1, 2, 3),
        camera=CameraHeadConfig(depth=1, heads=2, iterations=2),
        dense=DenseHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4),
        track=None,
        flow=flow,
        tokens=(9, 12),
    )


def toy_run(config: TrainConfig) -> TrainConfig:
    """The same run of a toy model on tiny images, in one process."""
    data: DataConfig = replace(
        config.data,
        views=(2, 3),
        images_per_batch=6,
        tokens=(9, 12),
        aspect=(1.0, 1.5),
        pairs_per_scene=1,
        workers=0,
    )
    return replace(
        config,
        model=toy_model(config.model),
        data=data,
        encoder_from=None,
        accumulate=1,
        precision="float32",
        recompute="nothing",
    )
