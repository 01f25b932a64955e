"""How right a teacher is where the true flow is known: python examples/5_judge_labels.py TEACHER FOLDERS...

FOLDERS are posed images with depth of static scenes (`cameras.json`, docs/data.md). Of the pixels that the teacher
calls covisible and whose depth is known, the share whose flow is within 3 pixels of the true one, at 336 pixels, over
all pairs that it accepted: by the poses as they are given, and by those that feature matches refine.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from flow3r.data.datasets.folder import CameraFolder
from flow3r.teacher import teacher_called
from flow3r.teacher.judge import JudgedPair, judge, precision

COLUMNS = ("sequence", "tried", "accepted", "precision, poses given", "refined", "and seen in both")
COLUMNS += ("pairs refined", "pose turned by, degrees", "flow moved by, px")


def row(name: str, pairs: list[JudgedPair]) -> str:
    """A line of the table."""
    accepted = [pair for pair in pairs if not pair.reason]
    known = max(1, sum(pair.known for pair in accepted))
    shares = precision(accepted, as_given=True), precision(accepted), sum(pair.seen for pair in accepted) / known
    refined = [pair for pair in accepted if pair.matches]
    turned, moved = (median_to_worst([getattr(pair, name) for pair in refined]) for name in ("turned", "moved"))
    cells = (name, len(pairs), len(accepted), *(f"{share:.3f}" for share in shares), len(refined), turned, moved)
    return "| " + " | ".join(map(str, cells)) + " |"


def median_to_worst(values: list[float]) -> str:
    """The median, and what one in ten exceeds."""
    return f"{np.median(values):.2f} (a tenth over {np.quantile(values, 0.9):.2f})" if values else "-"


torch.set_num_threads(1)
teacher = teacher_called(sys.argv[1])
print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
every: list[JudgedPair] = []
for folder in map(Path, sys.argv[2:]):
    judged = list(judge(CameraFolder(folder), teacher))
    print(row(folder.resolve().name, judged), flush=True)
    every += judged
print(row("pooled", every))
