"""Factored flow on a procedural world, beside the exact answer: python examples/2_flow_between_views.py OUT.png"""

import sys

import torch

import flow3r
from flow3r.data.worlds import render_worlds
from flow3r.draw import colourise_flow, save_png, sheet
from flow3r.metrics.flow import flow_errors

pairs = torch.tensor([[[0, 1], [1, 0]]]).expand(4, 2, 2).contiguous()
views = render_worlds([2**40 + k for k in range(4)], 2, (112, 112), pairs=pairs).views

model = flow3r.load_model("nano")
with torch.inference_mode():
    flow = model(views.images, pairs, outputs=()).flow  # neither points nor cameras are decoded for it

rows = []
for b in range(4):
    truth, covisible = views.flow.displacement[b], views.flow.covisible[b]
    errors = flow_errors(flow.displacement[b], truth, covisible)
    zero = flow_errors(torch.zeros_like(truth), truth, covisible)
    print(f"world {b}: AEPE {errors.aepe:.2f} px, of zero flow {zero.aepe:.2f} px")
    longest = float(truth[0].norm(dim=-1).max())
    drawn = [colourise_flow(truth[0], longest, covisible[0]), colourise_flow(flow.displacement[b, 0], longest)]
    rows.append([views.images[b, 0], views.images[b, 1], *drawn])
save_png(sys.argv[1], sheet(rows))  # source, target, true flow where covisible, predicted flow
