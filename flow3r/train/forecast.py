"""What a run will see, take and cost, from its configuration alone: `flow3r train PRESET --dry-run`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from flow3r.config import DataConfig, SourceConfig, TrainConfig
from flow3r.data.mixture import grids
from flow3r.nn.precision import choose_device, fast_dtype, product_rate
from flow3r.presets import PUBLISHED
from flow3r.train.cost import Shape, copies_bytes, parameter_counts, saved_bytes, state_bytes, step_flops

# Of presets for several GPUs, where none is at hand.
H100_PEAK = 989e12  # NVIDIA's data sheet: operations per second in bf16, dense, of an H100 SXM
ASSUMED_SHARE = 0.35  # ours, not measured: of that peak in training, what is run again in the backward pass included
# Of the rate of large matrix products that training reaches on the device at hand; ours: nano on a busy CPU, 0.3-0.6.
REACHED_SHARE = 0.5


@dataclass(frozen=True)
class Rate:
    """Operations per second that one device is expected to do in training, and how that is known."""

    per_second: float
    source: str


@dataclass(frozen=True)
class Forecast:
    """A run on paper. Shares are of the steps; bytes are of one process; hours are of computing alone."""

    config: TrainConfig
    sources: tuple[tuple[str, SourceConfig, int | None, float], ...]  # kind, source, sequences if known, share of steps
    parameters: int
    trained: int
    scenes_per_step: float  # of all processes, as all that follows of a step
    images_per_step: float
    flops_per_step: float
    rate: Rate
    memory: Mapping[str, int]

    @property
    def hours(self) -> float:
        return self.flops_per_step * self.config.steps / (self.rate.per_second * self.config.devices) / 3600

    @property
    def device_hours(self) -> float:
        return self.hours * self.config.devices

    @property
    def images(self) -> float:
        return self.images_per_step * self.config.steps

    def sequences(self, kind: str) -> int | None:
        """How many sequences of a kind there are, None where a source's number is not known."""
        counts = [count for found, _, count, _ in self.sources if found == kind]
        return None if None in counts else sum(counts)

    def visits(self, kind: str) -> float | None:
        """How often a sequence of a kind is drawn in the run, on the mean; None where their number is not known."""
        share, count = sum(part for found, *_, part in self.sources if found == kind), self.sequences(kind)
        return share * self.scenes_per_step * self.config.steps / count if count else None

    def lines(self) -> list[str]:
        """The forecast in words."""
        config = self.config
        kinds = list(dict.fromkeys(kind for kind, *_ in self.sources))
        return [
            f"run        {config.name}: {config.steps:,} steps on {_counted(config.devices, 'process', 'es')}"
            + (f" x {config.accumulate} batches" if config.accumulate > 1 else ""),
            f"model      {_millions(self.parameters)} parameters, {_millions(self.trained)} of them trained"
            + (f", from {config.init_from}" if config.init_from else ""),
            *(line for kind in kinds for line in self._sequences(kind)),
            f"images     {self.images_per_step:.4g} a step, {_short(self.images)} in the run",
            f"operations {self.flops_per_step:.3g} a step, {self.flops_per_step * config.steps:.3g} in the run",
            f"time       {_hours(self.hours)} on {_counted(config.devices, 'device', 's')}, "
            f"{self.device_hours:,.3g} device-hours; reading data, validation and communication come on top",
            f"at         {self.rate.per_second / 1e12:.3g} TFLOP/s a device: {self.rate.source}",
            f"memory     {sum(self.memory.values()) / 1e9:.1f} GB a process: "
            + ", ".join(f"{name} {count / 1e9:.2g}" for name, count in self.memory.items()),
        ]

    def _sequences(self, kind: str) -> Iterator[str]:
        found = [(source, count, share) for k, source, count, share in self.sources if k == kind]
        of_steps, visits = f"{sum(share for *_, share in found):.0%} of the steps", self.visits(kind)
        if not found[0][0].dataset:
            yield f"{kind:10} procedural worlds, new ones in every step, {of_steps}"
            return
        drawn = f", each drawn {visits:.2g} times" if visits else ""
        yield f"{kind:10} {_short(self.sequences(kind))} sequences, {of_steps}{drawn}"
        for source, count, part in found:
            yield f"           {source.dataset:16} {_short(count):>8} {part:6.1%}" + _footnote(source)


def forecast(
    config: TrainConfig,
    *,
    device: str | torch.device | None = None,
    clips: int | None = None,
    known: Mapping[str, int] = PUBLISHED,
) -> Forecast:
    """What `config` will see and cost, from sizes alone; a few matrix products measure the device.

    `clips`: how many unlabelled clips are given beside the sources of the configuration, if any are. `known`: how many
    sequences a dataset has, where a source takes all of them. A preset for several GPUs is forecast for H100s where no
    GPU is at hand and no device is asked for, at an assumed rate that the forecast names. Raises InputError for a
    device that is not there.
    """
    rate, dtype = _rate(config, device)
    sources = tuple(_sources(config.data, clips, known))
    unlabelled = sum(share for kind, *_, share in sources if kind == "unlabelled")
    scenes = images = flops = 0.0
    for weight, shapes in _phases(config):
        scenes += weight * sum(shape.scenes for shape in shapes) / len(shapes)
        images += weight * sum(shape.images for shape in shapes) / len(shapes)
        for labelled, share in ((True, 1 - unlabelled), (False, unlabelled)):
            if share:
                mean = sum(step_flops(config, replace(shape, labelled=labelled)) for shape in shapes) / len(shapes)
                flops += weight * share * mean
    every, trained, _ = parameter_counts(config.model, config.trainable)
    batches = config.devices * config.accumulate
    memory = state_bytes(config) | {
        "weights in bf16": copies_bytes(config, dtype),
        "activations": _most_saved(config, unlabelled, dtype),
    }
    memory = {name: count for name, count in memory.items() if count}
    per_step = (scenes * batches, images * batches, flops * batches)
    return Forecast(config, sources, every, trained, *per_step, rate, memory)


def _rate(config: TrainConfig, device: str | torch.device | None) -> tuple[Rate, torch.dtype]:
    if device is None and config.devices > 1 and not torch.cuda.is_available():
        dtype = torch.float32 if config.precision == "float32" else torch.bfloat16
        source = f"ASSUMED, {ASSUMED_SHARE:.0%} of the {H100_PEAK / 1e12:.0f} of an H100 in bf16"
        return Rate(ASSUMED_SHARE * H100_PEAK, source), dtype
    device = choose_device(device)
    fixed = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    dtype = fixed.get(config.precision) or fast_dtype(device)
    measured, name = product_rate(device, dtype), str(dtype).removeprefix("torch.")
    source = f"{REACHED_SHARE:.0%} of the {measured / 1e12:.3g} that matrix products in {name} reach on {device}"
    return Rate(REACHED_SHARE * measured, source), dtype


def _sources(
    data: DataConfig, clips: int | None, known: Mapping[str, int]
) -> Iterator[tuple[str, SourceConfig, int | None, float]]:
    given = (SourceConfig("given clips", clips),) if clips else ()
    unlabelled = data.unlabelled or given
    share = data.unlabelled_share if unlabelled else 0.0
    for kind, sources, of_steps in (
        ("labelled", data.labelled or (SourceConfig(""),), 1 - share),
        ("unlabelled", unlabelled, share),
    ):
        weights = sum(source.weight for source in sources)
        for source in sources:
            count = source.sequences if source.sequences is not None else known.get(source.dataset)
            yield kind, source, count, of_steps * source.weight / weights


def _phases(config: TrainConfig) -> Iterator[tuple[float, list[Shape]]]:
    """The shapes of batches, equally likely, at first and then, with the share of steps."""
    data, small = config.data, min(config.data.small_steps, config.steps) / config.steps
    for weight, tokens, images in (
        (small, data.small_tokens, data.small_images),
        (1 - small, data.tokens, data.images_per_batch),
    ):
        if weight:
            views = range(data.views[0], data.views[1] + 1)
            spread = _spread(grids(tokens, data.aspect))
            yield weight, [Shape(max(1, images // n), n, *grid) for n in views for grid in spread]


def _spread(every: list[tuple[int, int]], most: int = 12) -> list[tuple[int, int]]:
    """At most so many of the grids, by their size, each in the middle of as many: their mean is that of all, nearly."""
    ordered, count = sorted(every, key=lambda grid: grid[0] * grid[1]), min(most, len(every))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def _most_saved(config: TrainConfig, unlabelled: float, dtype: torch.dtype) -> int:
    """Of the batches with the most patches, the one that keeps the most: few views have many pairs, many views none
    that they do not see."""
    kinds = [True] * (unlabelled < 1) + [False] * (unlabelled > 0)
    largest = []
    for _, shapes in _phases(config):
        most = max(shape.images * shape.patches for shape in shapes)
        largest += [shape for shape in shapes if shape.images * shape.patches > 0.9 * most]
    patches = max(shape.patches for shape in largest)
    largest = [shape for shape in largest if shape.patches > 0.9 * patches]
    return max(saved_bytes(config, replace(s, labelled=labelled), dtype) for s in largest for labelled in kinds)


def _counted(count: int, what: str, plural: str) -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M"


def _short(count: float | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count:,.0f}"


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _footnote(source: SourceConfig) -> str:
    skipped = f", after {source.skip:,} others" if source.skip else ""
    return skipped + (f", labels by {source.labels}" if source.labels != "own" else "")
