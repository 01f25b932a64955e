"""Make nano better on your own videos, and see by how much: python examples/3_adapt_to_footage.py VIDEOS OUT"""

import sys

from rich import print

from flow3r.adapt import adapt
from flow3r.eval.report import table

videos, out = sys.argv[1], sys.argv[2]  # a video, or a folder of them
adapted = adapt([videos], out, held_out=0.4, seconds=120)  # the last 40 % of every shot is never learnt from

for report in adapted.reports:  # held-out pairs of the footage, then procedural worlds, before and after
    print(table(report))
for warning in adapted.warnings:
    print("[yellow]warning[/]", warning)
print("weights that were best on the held-out pairs:", adapted.weights)
