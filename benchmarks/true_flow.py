"""Flow of real and rendered pairs whose true flow is published: a model, zero flow, and the classical teacher.

    python -m benchmarks.true_flow DATA [--model nano]

DATA/flow_gt holds RubberWhale (Middlebury) and a pair of MPI-Sintel. All rows are scored on the model's grid, over all
pixels whose flow is known and leads to within the image, occluded ones too, and again over those that the teacher
labels, the only ones that it answers. Its gates for whole pairs are open here: both pairs move too little for them.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from flow3r.data.datasets.sintel import read_flow
from flow3r.data.frame import Frame
from flow3r.data.images import read_image
from flow3r.eval.frames import flow_on_grid
from flow3r.eval.methods import images_on_grid
from flow3r.eval.predictors import identity, model_predictor
from flow3r.metrics.flow import flow_errors
from flow3r.model.checkpoints import load_model
from flow3r.teacher.classical import ClassicalTeacher
from flow3r.types import Flow, Views

PAIRS = {
    "RubberWhale": ("middlebury_rubberwhale", "frame10.png", "frame11.png", "flow10.flo"),
    "Sintel": ("sintel_pair", "frame_0001.png", "frame_0002.png", "frame_0001.flo"),
}
UNKNOWN = 1e9  # a larger component of .flo says that the flow is not known
OPEN = ClassicalTeacher(least_motion=0.0, covisible_share=(0.0, 1.0))


def print_pair(name: str, folder: Path, files: tuple[str, str, str], model: torch.nn.Module) -> None:
    """Its lines of the table."""
    frames = [Frame(read_image(folder / file), float(k), file) for k, file in enumerate(files[:2])]
    true = torch.from_numpy(read_flow(folder / files[2]).astype(np.float32))
    known = (true.abs() < UNKNOWN).all(-1)
    forward = torch.tensor([[[0, 1]]])
    truth = Flow(forward, torch.where(known[..., None], true, 0.0)[None, None], known.float()[None, None])
    images, grids = images_on_grid(frames, model.config.tokens)
    size = images.shape[-2:]
    truth = flow_on_grid(truth, grids, size)
    originals = torch.from_numpy(np.stack([f.image for f in frames])).movedim(-1, 1).float() / 255
    labels = OPEN(originals, forward[0])
    teacher = flow_on_grid(labels.flow, grids, size)
    views = Views(images, flow=truth)
    rows = {
        "zero flow": identity(views).flow.displacement,
        "model": model_predictor(model)(views).flow.displacement,
        "classical": teacher.displacement,
    }
    labelled = teacher.covisible[0] > 0
    share = float(labelled.float().mean())
    for row, displacement in rows.items():
        amongst = (labelled,) if row == "classical" else (None, labelled)
        found = [flow_errors(displacement[0], truth.displacement[0], truth.covisible[0], among) for among in amongst]
        cells = [f"{errors.aepe:.2f} | {errors.within_pixels[0]:.1f}" for errors in found]
        print(f"| {name}, {size[1]} x {size[0]} | {row} | {' | '.join(['– | –'] * (2 - len(cells)) + cells)} |")
    print(f"<!-- {name}: the teacher labels {share:.1%} of the pixels {labels.refusals[0]} -->")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nano")
    arguments = parser.parse_args()
    network = load_model(arguments.model)
    print("| pair, grid | row | AEPE px, all known | within 1 px % | AEPE px, labelled | within 1 px % |")
    print("|---|---|---|---|---|---|")
    for title, (place, *names) in PAIRS.items():
        print_pair(title, arguments.data / "flow_gt" / place, tuple(names), network)
