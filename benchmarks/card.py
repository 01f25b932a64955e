"""What a model card says of a model on worlds: `dynamic/test` beside the trivial rows, and pictures of its failures.

    python -m benchmarks.card [MODEL] [--worlds 500] [--picture PICTURE.png]

The 500 test worlds of docs/experiments.md: four frames each, turned by up to 120 degrees, among moving objects. A row
of the picture is a world: source, target, covisibility; true, predicted and rigid flow; true and predicted depth; true
and predicted points from above. The best two by mean rotation error, then the median, then the worst two.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from flow3r.data.kept_worlds import KeptWorlds, keep_worlds
from flow3r.data.regimes import WorldSet
from flow3r.draw.pictures import save_png
from flow3r.draw.training import training_picture
from flow3r.eval.predictors import Predictor, model_predictor
from flow3r.experiment.scores import mean_of, measured, trivial_rows
from flow3r.experiment.sources import SEEN
from flow3r.model.checkpoints import load_model

COLUMNS = ("rra@5", "rra@15", "rra@30", "rta@15", "rta@30", "auc@30", "rotation", "mse", "abs_rel", "aepe")


def print_row(name: str, means: dict[str, float]) -> None:
    """The means of a row; those that do not exist are left open."""
    print(f"{name:12}" + "".join(f"{means[column]:9.3f}" if column in means else f"{'':9}" for column in COLUMNS))


def picture_of(predictor: Predictor, kept: KeptWorlds, rotation: list[float], path: Path) -> None:
    """Best, median and worst worlds."""
    order = sorted(range(len(rotation)), key=rotation.__getitem__)
    chosen = [*order[:2], order[len(order) // 2], *order[-2:]]
    views = kept.views(chosen, torch.tensor(SEEN).expand(len(chosen), -1))
    save_png(path, training_picture(views, predictor(views), scenes=len(chosen)))
    print(f"{path}: worlds {', '.join(map(str, chosen))}, {', '.join(f'{rotation[k]:.0f}' for k in chosen)} degrees")


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="nano")
    parser.add_argument("--worlds", type=int, default=500)
    parser.add_argument("--kept", type=Path, help="folder of the rendered worlds; by default one for this run alone")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    predictor = model_predictor(load_model(arguments.model), project=False)
    test, labelled = WorldSet("dynamic", "test", arguments.worlds), WorldSet("dynamic", "labelled", 100)
    with tempfile.TemporaryDirectory() as own:
        folder = arguments.kept or Path(own)
        kept = keep_worlds(test, folder / "dynamic-test", frames=SEEN, flow=True)
        print(f"{kept.worlds.count} worlds\n{'':12}" + "".join(f"{column:>9}" for column in COLUMNS))
        found = measured(predictor, kept)
        print_row("model", mean_of(found))
        for name, row in trivial_rows(kept, keep_worlds(labelled, folder / "dynamic-labelled")).items():
            print_row(name, mean_of(row))
        if arguments.picture:
            picture_of(predictor, kept, found["rotation"], arguments.picture)


if __name__ == "__main__":
    main()
