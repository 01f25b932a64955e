"""How right a teacher is where the true flow is known: python examples/5_judge_labels.py TEACHER FOLDERS...

FOLDERS are posed images with depth of static scenes (`cameras.json`, docs/data.md). Of the pixels that the teacher
calls covisible and whose depth is known, the share whose flow is within 3 pixels of the one that depth and poses give,
at 336 pixels: over all pairs that it accepted, and over those where feature matches agree with depth and poses.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from flow3r.data.datasets.folder import CameraFolder
from flow3r.teacher import teacher_called
from flow3r.teacher.judge import JudgedPair, judge, precision

COLUMNS = ("sequence", "tried", "accepted", "precision", "truth's error, px", "sound", "precision", "seen in both")


def row(name: str, pairs: list[JudgedPair]) -> str:
    """A line of the table."""
    accepted = [pair for pair in pairs if not pair.reason]
    sound = [pair for pair in accepted if pair.sound]
    error = np.nanmedian([pair.truth_error for pair in accepted] or [np.nan])
    seen = sum(pair.seen for pair in sound) / max(1, sum(pair.known for pair in sound))
    shares = f"{precision(accepted):.3f} | {error:.2f} | {len(sound)} | {precision(sound):.3f} | {seen:.3f}"
    return f"| {name} | {len(pairs)} | {len(accepted)} | {shares} |"


torch.set_num_threads(1)
teacher = teacher_called(sys.argv[1])
print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
every: list[JudgedPair] = []
for folder in map(Path, sys.argv[2:]):
    judged = list(judge(CameraFolder(folder), teacher))
    print(row(folder.resolve().name, judged), flush=True)
    every += judged
print(row("pooled", every))
