"""Pictures of what a model sees and predicts: flow, depth, masks, points, sheets. All are (3 H W) in [0, 1]."""

from flow3r.draw.pictures import colourise_depth, colourise_flow, colourise_mask, save_png, sheet, to_bytes
from flow3r.draw.points import Orbit, draw_points, look_at, nearest_points, orbit_of, paint, points_along, upwards
from flow3r.draw.training import cloud_from_above, labels_picture, training_picture

__all__ = [
    "Orbit",
    "cloud_from_above",
    "colourise_depth",
    "colourise_flow",
    "colourise_mask",
    "draw_points",
    "labels_picture",
    "look_at",
    "nearest_points",
    "orbit_of",
    "paint",
    "points_along",
    "save_png",
    "sheet",
    "to_bytes",
    "training_picture",
    "upwards",
]
