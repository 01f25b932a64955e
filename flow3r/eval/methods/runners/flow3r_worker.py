"""The authors' Flow3r in a process of its own, run by path, never imported: their package has the name of ours.

    python flow3r_worker.py CHECKOUT WEIGHTS DEVICE

Each line of the standard input asks, as JSON: {"images": folder, "pairs": [[source, target], ...], "out": npz}. Each is
answered by a line {"error": ""} once the npz is written. Whatever else is printed goes to the standard error.
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

THEIRS = "flow3r"


def serve(checkout: str, weights: str, device: str) -> None:
    """Answer until the standard input ends."""
    sys.path[0] = checkout  # instead of this file's folder
    package = ModuleType(THEIRS)  # theirs, whatever is installed
    package.__path__ = [str(Path(checkout) / THEIRS)]
    sys.modules[THEIRS] = package
    answers, sys.stdout = sys.stdout, sys.stderr
    load_images = importlib.import_module(f"{THEIRS}.utils.basic").load_images_as_tensor
    model = importlib.import_module(f"{THEIRS}.models.{THEIRS}").Flow3r()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    model = model.to(device).eval()
    for line in sys.stdin:
        error = ""
        try:
            _answer(model, load_images, torch.device(device), json.loads(line))
        except Exception as raised:  # whatever their code raises is the caller's to report
            error = f"{type(raised).__name__}: {raised}"
        print(json.dumps({"error": error}), file=answers, flush=True)


def _answer(model, load_images, device: torch.device, asked: dict) -> None:
    images = load_images(asked["images"], interval=1).to(device)
    pairs = torch.tensor([asked["pairs"]], device=device) if asked["pairs"] else None
    # As in their demo; a CPU has no autocast there.
    recent = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    dtype = torch.bfloat16 if recent else torch.float16
    with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=device.type == "cuda"):
        output = model(images[None]) if pairs is None else model(images[None], pairs)
    kept = {name: output[name] for name in ("local_points", "camera_poses", "flow") if output.get(name) is not None}
    np.savez(asked["out"], **{name: value.detach().float().cpu().numpy() for name, value in kept.items()})


if __name__ == "__main__":
    serve(*sys.argv[1:])
