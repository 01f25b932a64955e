"""The losses of twenty steps of a tiny model of each family on worlds and clips, and where those of old are stored.

PYTHONPATH=tests python tests/train/loss_curve.py            how far today's losses are from the stored ones
PYTHONPATH=tests python tests/train/loss_curve.py --write    store today's, after a change that is meant to change them

On one machine, before and after a change of form alone, the first command says "identical".
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from tiny_model import TINY, TINY_VGGT, tiny_model

from flow3r.config import DataConfig, LossConfig, OptimConfig, TrainConfig, VggtLossConfig, WorldsConfig
from flow3r.data.mixture import Source, Wanted, draw_pairs
from flow3r.files import write_json
from flow3r.model.checkpoints import Model, save_model
from flow3r.train.loop import train
from flow3r.types import Flow, Views

STORED = Path(__file__).with_name("loss_curve.json")
FAMILIES = {"flow3r": TINY, "flow3r-vggt": TINY_VGGT}
Curve = list[dict[str, float]]  # of every step the loss and its terms


class SlidingTexture(Source):
    """Unlabelled clips: random texture moved by a constant flow, which is the label."""

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        chosen = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator)
        flow = torch.full((*chosen.shape[:2], *wanted.size, 2), 3.0)
        images = torch.rand(wanted.scenes, wanted.views, 3, *wanted.size, generator=generator)
        return Views(images, flow=Flow(chosen, flow, torch.ones(flow.shape[:-1])))


def config_of(family: str, start: Path) -> TrainConfig:
    """Labelled and unlabelled steps by turns of chance, augmented.

    Chosen so that rounding stays as small as it is: wide motion, since the share of an error in a small angle is large;
    four views, since a rigid motion onto the centres of two or three leaves differences of zero, whose sign is chance.
    """
    return TrainConfig(
        name=f"curve of {family}",
        model=FAMILIES[family],
        loss=LossConfig(vggt=VggtLossConfig(point_confidence=0.1)),
        optim=OptimConfig(learning_rate=3e-4, warmup_steps=5),
        data=DataConfig(
            views=(4, 5),
            images_per_batch=5,
            tokens=(6, 9),
            pairs_per_scene=2,
            worlds=WorldsConfig(rotation_degrees=(20.0, 60.0), outdoor_share=0.0),
            workers=0,
        ),
        steps=20,
        init_from=str(start),
        precision="float32",
        ema=0.9,
        checkpoint_every=100,
        log_every=1,
        image_every=100,
    )


def first_model(family: str, nudge: float) -> Model:
    """Weights drawn one by one: how many numbers torch draws to initialise a model depends on its version."""
    model = tiny_model(FAMILIES[family])
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise, change = (torch.randn(parameter.shape, generator=generator) for _ in range(2))
        if parameter.ndim > 1:
            first = 0.5 * noise / parameter[0].numel() ** 0.5
        else:
            first = float(name.endswith("weight")) + 0.2 * noise
        parameter.data = first * (1 + nudge * change)
    return model


def curve_of(family: str, folder: Path, nudge: float = 0.0) -> Curve:
    """Of each of twenty steps the loss and its terms. `nudge`: a random change of the first weights, as a share."""
    start = folder / "start.safetensors"
    save_model(first_model(family, nudge), start)
    train(config_of(family, start), folder / "run", clips=SlidingTexture(), device="cpu", quiet=True)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name == "loss" or name.startswith(("labelled/", "unlabelled/"))}
        for line in lines
    ]


def stored(family: str) -> Curve:
    return json.loads(STORED.read_text())["curves"][family]


def distance(curve: Curve, other: Curve) -> float:
    """The largest difference of a value, as a share of it, or of a thousandth where it is less than that; infinite
    where one curve has what the other has not."""
    if [record.keys() for record in curve] != [record.keys() for record in other]:
        return float("inf")
    shares = [
        abs(record[name] - value) / max(abs(value), 1e-3)
        for record, others in zip(curve, other, strict=True)
        for name, value in others.items()
    ]
    return max(shares)


def main() -> None:
    torch.set_num_threads(1)
    curves = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            curves[family] = curve_of(family, Path(folder))
        if STORED.exists():
            far = distance(curves[family], stored(family))
            print(f"{family}: {'identical' if far == 0 else f'{far:.1e} away'}")
    if "--write" in sys.argv[1:]:
        made = {"by": "PYTHONPATH=tests python tests/train/loss_curve.py --write", "torch": torch.__version__}
        write_json(STORED, {"made": made, "curves": curves})


if __name__ == "__main__":
    main()
