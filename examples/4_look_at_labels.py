"""Label videos, and look at the labels: python examples/4_look_at_labels.py OUT VIDEOS...

OUT/labels is the store that `flow3r label` makes. labels.md has a row for every video; labels.jpg two of its accepted
pairs, a third and two thirds up in flow: source, target, flow, covisibility, target warped to source.
"""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.video import content_sha256, list_sources, open_source
from flow3r.draw import colourise_flow, colourise_mask, sheet, to_bytes
from flow3r.files import write_text
from flow3r.geometry.flow import warp
from flow3r.teacher import teacher_called
from flow3r.teacher.label import label_videos

COLUMNS = ("clip", "frames", "shots", "pairs tried", "accepted", "refused", "median flow, % of diagonal", "CPU s")
WIDTH = 150  # pixels of a picture


def pictures(store: LabelStore, segment: SegmentInfo, row: int) -> list[torch.Tensor]:
    """Of one pair."""
    clip = store.clip(segment, sorted(segment.pairs[row]), [row])
    (i, j), displacement, covisible = clip.flow.pairs[0, 0], clip.flow.displacement[0], clip.flow.covisible[0, 0] > 0
    longest = max(float(displacement[0].norm(dim=-1)[covisible].quantile(0.95)), 1.0)
    warped = warp(clip.images[0, j][None], displacement)[0] * (0.15 + 0.85 * covisible)
    flow = colourise_flow(displacement[0], longest, covisible.float())
    row = torch.stack([clip.images[0, i], clip.images[0, j], flow, colourise_mask(covisible.float()), warped])
    return list(interpolate(row, (round(WIDTH * row.shape[2] / row.shape[3]), WIDTH), mode="area"))


out = Path(sys.argv[1])
table, rows = [COLUMNS, ("---",) * len(COLUMNS)], []
for source in list_sources(sys.argv[2:]):
    start = time.process_time()
    summary = label_videos([source], out / "labels", teacher_called("classical"))
    seconds = time.process_time() - start
    if summary.failures:
        print(*summary.lines(), sep="\n")
        continue
    store, video = LabelStore(out / "labels"), open_source(source)
    segments = [segment for segment in store.segments() if segment.source_sha256 == content_sha256(video)]
    flows = np.array([flow / np.hypot(*s.size) for s in segments for flow in s.median_flow])
    refused = Counter(refusal.reason.split(" (")[0] for segment in segments for refusal in segment.refusals)
    why = ", ".join(f"{count} {reason}" for reason, count in refused.most_common()) or "none"
    motion = f"{100 * np.median(flows):.1f}" if len(flows) else "-"
    shots, tried = len({segment.shot for segment in segments}), summary.accepted + refused.total()
    table.append((video.name, len(video), shots, tried, summary.accepted, why, motion, f"{seconds:.0f}"))
    found = [(segment, row) for segment in segments for row in range(len(segment.pairs))]
    chosen = [found[k] for k in np.argsort(flows)[[len(flows) // 3, 2 * len(flows) // 3]]] if len(found) > 1 else found
    rows += [[picture for pair in chosen for picture in pictures(store, *pair)]] if chosen else []
    write_text(out / "labels.md", "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table) + "\n")
if rows:
    Image.fromarray(to_bytes(sheet(rows)).numpy()).save(out / "labels.jpg", quality=85)
print((out / "labels.md").read_text())
