"""How well a matcher, or a model with a flow head, finds what moved by several patches: its error over that of no flow.

    python -m benchmarks.matching [FILE] [--scenes 96]

Pairs of worlds that no training run draws, 84 x 84: pans, which change little of what is seen; turns of 5-90 degrees;
and the held-out distribution. A ratio of 1 is that of zero flow, over all covisible pixels, both directions.
"""

import argparse

import torch

from flow3r.config import MatcherConfig, WorldsConfig
from flow3r.data.mixture import TRAINING_SEEDS
from flow3r.data.worlds import render_worlds
from flow3r.model.checkpoints import initialise_from, load_model, sizes_of
from flow3r.model.matcher import Matcher
from flow3r.model.sources import read_source

SIZE = (84, 84)
FIRST_SEED = TRAINING_SEEDS + 5000
WORLDS = {  # and their difficulty
    "pans": (WorldsConfig(pan_share=1.0), 0.0),
    "turns of 5-90 degrees": (WorldsConfig(rotation_degrees=(5.0, 90.0)), 0.2),
    "held out": (WorldsConfig(held_out=True), 1.0),
}


def model_in(path: str) -> torch.nn.Module:
    """A matcher or a model."""
    sizes = sizes_of(read_source(path, False))
    if not isinstance(sizes, MatcherConfig):
        return load_model(path)
    matcher = Matcher(sizes)
    initialise_from(matcher, path)
    return matcher.eval()


@torch.inference_mode()
def main() -> None:
    """Print a line for each kind of worlds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="nano")
    parser.add_argument("--scenes", type=int, default=96)
    arguments = parser.parse_args()
    model = model_in(arguments.file)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.scenes)
    pairs = torch.tensor([[0, 1], [1, 0]]).expand(arguments.scenes, -1, -1)
    for name, (config, difficulty) in WORLDS.items():
        views = render_worlds(seeds, 2, SIZE, config=config, difficulty=difficulty, pairs=pairs).views
        flow, seen = views.flow.displacement, views.flow.covisible
        error = (model(views.images, pairs, outputs=()).flow.displacement - flow).norm(dim=-1)
        zero, mine = ((length * seen).sum() / seen.sum() for length in (flow.norm(dim=-1), error))
        print(f"{name:22} zero flow {zero:5.1f} px, model {mine:5.1f} px, ratio {mine / zero:.3f}")


if __name__ == "__main__":
    main()
