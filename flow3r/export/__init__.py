"""Reconstructions in the formats that other programs read."""

from flow3r.export.arrays import load_reconstruction
from flow3r.export.write import FORMATS, write_reconstruction

__all__ = ["FORMATS", "load_reconstruction", "write_reconstruction"]
