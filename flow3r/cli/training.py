"""The command that trains: what its flags mean together, refused before anything is written where they contradict."""

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from flow3r.cli.command import PRINT, loads_weights, refuse_file
from flow3r.config import SourceConfig, TrainConfig
from flow3r.data.catalogue import DATASETS
from flow3r.data.clips import LabelClips, check_store_matches
from flow3r.data.datasets.folder import CAMERAS, CameraFolder
from flow3r.data.indexed import IndexedClips, stored_clips
from flow3r.data.labels import LabelStore
from flow3r.data.mixture import Source, Weighted
from flow3r.data.posed import PosedScenes
from flow3r.data.recipe import Recipe, make_recipe
from flow3r.data.taught import Footage, HybridClips, TaughtClips
from flow3r.data.video import list_sources, open_source
from flow3r.errors import InputError
from flow3r.eval.validation import FEW_WORLDS, Validation, validation
from flow3r.presets import PRESETS
from flow3r.teacher import teacher_called


@dataclass(frozen=True)
class TrainFlags:
    """The flags of `flow3r train`."""

    preset: Positional[str]
    """Name of a preset in flow3r/presets.py."""
    out: Annotated[Path, arg(aliases=["-o"])]
    """Folder of the run."""
    labels: str | None = None
    """Label store (flow3r label) of unlabelled video to learn from, a folder or a URL; with --root, what holds one for
    each dataset."""
    held_out: float | None = None
    """Last share of every shot that is kept from training; pairs of the store in it are measured."""
    videos: tuple[str, ...] = ()
    """Unlabelled videos, folders or globs: a teacher gives their flow as clips are drawn, but for what --labels has."""
    teacher: str | None = None
    """Name of the teacher of --videos; with --root, also of labelled scenes in which something moves."""
    root: Path | None = None
    """Folder of the datasets that the preset names, each in a folder of its name (flow3r data list)."""
    data: tuple[Path, ...] = ()
    """Folders with cameras.json and depth, or folders of such, to learn from in place of procedural worlds."""
    static: bool = False
    """Nothing moves in --data, so that depth and cameras give flow."""
    validate: bool = False
    """Measure held-out worlds while training."""
    folder: tuple[Path, ...] = ()
    """Folders with cameras.json to measure while training."""
    validate_every: int | None = None
    """Steps between two measurements instead of the preset's."""
    best_by: str | None = None
    """Measure that chooses best.safetensors, such as worlds/auc@30, clip/aepe or NAME_OF_FOLDER/ate."""
    patience: int | None = None
    """End after so many measurements in a row without a better one."""
    init_from: str | None = None
    """Weights to start from instead of the preset's: name, file, folder or hub id."""
    steps: int | None = None
    """Number of steps instead of the preset's."""
    lr: float | None = None
    """Learning rate instead of the preset's."""
    accumulate: int | None = None
    """Batches of each process in a step instead of the preset's."""
    workers: int | None = None
    """Processes that read data ahead instead of the preset's; 0 reads it in the main process."""
    parallel: Literal["replicate", "shard"] | None = None
    """Whether every process of torchrun holds the model, or a part of it (FSDP2), instead of as the preset says."""
    seconds: float | None = None
    """End the run after this much wall time over all its starts, the learning rate decayed to match."""
    device: str | None = None
    """cpu, cuda, ...; by default CUDA where there is one."""
    seed: int | None = None
    """Seed instead of the preset's."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well."""
    dry_run: bool = False
    """Print the configuration, and what the run will see, take and cost; nothing is written."""


@loads_weights
def train(flags: OmitArgPrefixes[TrainFlags]) -> None:
    """Train a preset, on worlds where nothing else is given; goes on from the last checkpoint.

    Args:
        flags: What is trained, on what, and how.
    """
    from flow3r.train.distributed import use_device_of_rank
    from flow3r.train.loop import train as run

    config = configuration(flags)
    use_device_of_rank(flags.device)  # a teacher's too
    refuse_file(flags.out)
    for problem in contradictions(flags, config):
        raise InputError(problem)
    recipe = recipe_of(flags, config)
    if recipe is None:
        (clips, stored), labelled = clips_of(flags, config), labelled_of(flags, config)
    else:
        clips, stored, labelled = recipe.clips or None, None, recipe.labelled or None
    if flags.dry_run:
        _print_forecast(flags, config, stored, recipe, labelled)
        return
    measured = validation_of(flags, config, stored)
    if flags.best_by is not None:
        config = replace(config, best_by=flags.best_by, best_is=measured.better(flags.best_by))
    speaking = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, one
    if recipe is not None and speaking and recipe.without_flow:
        moving = ", ".join(recipe.without_flow)
        PRINT.print(f"no flow of {moving}: something moves there; name a --teacher for it, or give --labels of it")

    def list_sequences(step: int, loss: float) -> None:
        """Once the run has begun, so that one that is refused leaves the lists of the run that it is not."""
        if recipe is not None and speaking and not listed:
            recipe.write_lists(flags.out / "sequences")
            listed.append(True)

    listed: list[bool] = []
    result = run(
        config,
        flags.out,
        clips=clips,
        labelled=labelled,
        validation=measured,
        device=flags.device,
        seconds=flags.seconds,
        wandb=flags.wandb,
        on_step=list_sequences,
    )
    if speaking:
        PRINT.print(f"{result.steps} steps in {result.seconds:.0f} s; weights: {result.weights}")
        if result.best is not None:
            PRINT.print(f"the best by {config.best_by}, after step {result.best_step}: {result.best}")


def configuration(flags: TrainFlags) -> TrainConfig:
    """The preset with what flags change of it. Raises InputError, naming the nearest, for an unknown preset."""
    if flags.preset not in PRESETS:
        nearest = get_close_matches(flags.preset, PRESETS, n=3, cutoff=0.0)
        raise InputError(
            f"no preset is called {flags.preset!r}; nearest are {', '.join(nearest)}; all {len(PRESETS)} are in "
            "flow3r/presets.py"
        )
    names = ("steps", "seed", "accumulate", "parallel", "init_from", "validate_every", "patience")
    changes = {name: value for name in names if (value := getattr(flags, name)) is not None}
    config = replace(PRESETS[flags.preset], **changes)
    if flags.data:  # in place of the datasets that the preset names
        config = replace(config, data=replace(config.data, labelled=()))
    if flags.root is None and (flags.labels is not None or flags.videos):
        config = replace(config, data=replace(config.data, unlabelled=()))
    if flags.workers is not None:
        config = replace(config, data=replace(config.data, workers=flags.workers))
    if flags.lr is not None:
        config = replace(config, optim=replace(config.optim, learning_rate=flags.lr))
    return config


def contradictions(flags: TrainFlags, config: TrainConfig) -> Iterator[str]:
    """What is wrong with flags by themselves, beside each other, and for their preset."""
    for name in ("steps", "lr", "accumulate", "seconds", "validate_every", "patience"):
        value = getattr(flags, name)
        if value is not None and not value > 0:
            yield f"--{name.replace('_', '-')} {value:g}: expected more than 0; leave it out for the preset's"
    if flags.workers is not None and flags.workers < 0:
        yield f"--workers {flags.workers}: expected 0 or more processes"
    if flags.held_out is not None and not 0 < flags.held_out < 1:
        yield f"--held-out {flags.held_out:g}: expected a share between 0 and 1 of every shot"
    yield from _alone(flags)
    yield from _useless(flags, config)


def _alone(flags: TrainFlags) -> Iterator[str]:
    """Flags without those that they belong to, or with those that leave them nothing to do."""
    measured = flags.validate or flags.folder or flags.held_out is not None
    if flags.root is not None and (flags.data or flags.videos):
        other = "--data" if flags.data else "--videos"
        yield f"--root {flags.root} with {other}: learn from the preset's datasets, or from your own"
    if flags.root is not None and flags.held_out is not None:
        yield "--held-out with --root: what a dataset holds out is its test; measure with --validate or --folder"
    if flags.teacher is not None and not flags.videos and flags.root is None:
        yield f"--teacher {flags.teacher} without --videos: give the videos that it is to label, or leave it out"
    if flags.videos and flags.teacher is None and flags.labels is None:
        yield "--videos without --teacher and --labels: name a teacher, as classical, or the store made from them"
    if flags.held_out is not None and flags.labels is None:
        yield "--held-out without --labels: it is pairs of a label store that are held out and measured; give one"
    if flags.static and not flags.data:
        yield "--static without --data: it is said of the folders of labelled images; give some, or leave it out"
    if flags.best_by is not None and not measured:
        yield f"--best-by {flags.best_by}, but nothing is measured: add --validate, --folder or --held-out"
    if flags.patience is not None and flags.best_by is None:
        yield f"--patience {flags.patience} without --best-by: say what must get better, as worlds/auc@30"
    if flags.validate_every is not None and not measured:
        yield "--validate-every, but nothing is measured: add --validate, --folder or --held-out"
    if flags.dry_run and flags.seconds is not None:
        yield f"--dry-run with --seconds {flags.seconds:g}: what a run costs is told by steps; give --steps instead"
    if flags.dry_run and flags.wandb is not None:
        yield f"--dry-run with --wandb {flags.wandb}: nothing is run that could be logged; leave one out"
    if flags.wandb is not None and importlib.util.find_spec("wandb") is None:
        yield f"--wandb {flags.wandb}: the package wandb is not installed; pip install 'flow3r[wandb]', or leave it out"


def _useless(flags: TrainFlags, config: TrainConfig) -> Iterator[str]:
    """Unlabelled video, or datasets, for a preset that learns nothing from it."""
    if flags.root is not None:
        if not (config.data.labelled or config.data.unlabelled):
            yield f"--root {flags.root} for preset {config.name!r}, which names no dataset; choose one that does"
        return
    if flags.labels is None and not flags.videos:
        return
    given = "--videos" if flags.labels is None else "--labels"
    if config.model.flow is None:
        yield f"{given} for preset {config.name!r}, which has no flow head to learn from them; choose one that has"
    if config.loss.flow == 0 or config.data.unlabelled_share == 0:
        yield f"{given} for preset {config.name!r}, which takes no step on unlabelled video; choose one that does"


def clips_of(flags: TrainFlags, config: TrainConfig) -> tuple[Source | None, LabelClips | IndexedClips | None]:
    """The unlabelled clips to learn from, and those among them that lie in a store."""
    stored, crop, held_out = None, config.data.crop_clips, flags.held_out or 0.0
    beside = bool(flags.videos) and flags.teacher is not None  # a store beside a teacher is asked for single videos
    if flags.labels is not None:
        store = LabelStore(flags.labels)
        stored = LabelClips(store, held_out, crop=crop) if beside else stored_clips(store.folder, held_out, crop=crop)
        if flags.held_out is not None and not stored.held_out_count:
            raise InputError(f"--held-out {held_out:g}: {flags.labels} has no pair there; hold out more of every shot")
    if not flags.videos:
        return stored, stored
    videos = [open_source(source) if isinstance(source, list) else source for source in list_sources(flags.videos)]
    missing = [video for video in videos if isinstance(video, str | Path) and not Path(video).exists()]
    if missing:
        raise InputError(f"{missing[0]}: no such file or folder")
    if flags.teacher is None:
        check_store_matches(stored.store, videos)
        return stored, stored
    footage = Footage(videos, held_out=held_out, cache=flags.out / "shots")
    taught = TaughtClips(footage, teacher_called(flags.teacher), strides=config.data.stride_seconds, crop=crop)
    return (taught if stored is None else HybridClips(stored, taught)), stored


def recipe_of(flags: TrainFlags, config: TrainConfig) -> Recipe | None:
    """The datasets of the preset below --root. Raises InputError naming all that is missing there."""
    if flags.root is None:
        return None
    teacher = None if flags.teacher is None else teacher_called(flags.teacher)
    return make_recipe(
        config.data, flags.root, DATASETS, labels=flags.labels, teacher=teacher, trainable=config.trainable
    )


def labelled_of(flags: TrainFlags, config: TrainConfig) -> PosedScenes | None:
    """The labelled images to learn from. Raises InputError for a folder without cameras, or without depth."""
    folders = [folder for path in flags.data for folder in _camera_folders(path)]
    for folder in folders:
        if not folder.has_depth:
            raise InputError(f"{folder.path}: no depth for every frame; expected it of what is to be learnt from")
    if not folders:
        return None
    return PosedScenes(folders, strides=config.data.stride_seconds, rigid=flags.static)


def _camera_folders(path: Path) -> list[CameraFolder]:
    """The folder, or those in it."""
    inner = [] if (path / CAMERAS).is_file() else sorted(file.parent for file in path.glob(f"*/{CAMERAS}"))
    return [CameraFolder(folder) for folder in inner or [path]]


def validation_of(
    flags: TrainFlags, config: TrainConfig, stored: LabelClips | IndexedClips | None
) -> Validation | None:
    """What is measured while training, if anything is asked for."""
    return validation(
        config.model.tokens,
        config.model.encoder.patch,
        scenes=FEW_WORLDS if flags.validate else 0,
        folders=flags.folder,
        clips=stored if flags.held_out is not None else None,
    )


def _print_forecast(
    flags: TrainFlags,
    config: TrainConfig,
    stored: LabelClips | IndexedClips | None,
    recipe: Recipe | None,
    labelled: PosedScenes | Weighted | None,
) -> None:
    from flow3r.train.forecast import forecast

    data = config.data
    if recipe is not None:  # what is there, in place of what is published
        counts = iter(len(subset.names) for subset in recipe.subsets)
        found = (tuple(replace(s, sequences=next(counts)) for s in part) for part in (data.labelled, data.unlabelled))
        data = replace(data, **dict(zip(("labelled", "unlabelled"), found)))
    elif isinstance(labelled, PosedScenes):
        data = replace(data, labelled=(SourceConfig("--data", len(labelled.sequences)),))
    sources = set() if stored is None else {segment.source_sha256 for segment in stored.store.segments()}
    clips = len(list_sources(flags.videos)) if flags.videos and flags.teacher is not None else len(sources)
    PRINT.print(config)
    lines = forecast(replace(config, data=data), device=flags.device, clips=clips or None).lines()
    PRINT.print("\n".join(lines), soft_wrap=True)
