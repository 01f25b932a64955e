"""Make nano better on your own video and measure it: python examples/3_adapt_to_footage.py VIDEO OUT"""

import sys

from rich import print

import flow3r
from flow3r.adapt import adapt
from flow3r.data.clips import LabelClips
from flow3r.data.labels import LabelStore
from flow3r.eval.benchmarks import evaluate_labels
from flow3r.eval.report import compare, table

video, out = sys.argv[1], sys.argv[2]
held_out = 0.4  # the last part of every shot, which adaptation never sees
adapted = adapt([video], out, held_out=held_out, seconds=120)

clips = LabelClips(LabelStore(f"{out}/labels"), held_out)
before = evaluate_labels(flow3r.load_model("nano"), clips.held_out_pairs(), title="held-out pairs")
after = evaluate_labels(adapted.model, clips.held_out_pairs(), title="held-out pairs")
print(table(compare(before, after, ("nano", "adapted"))))
