"""Reconstructions in the formats that other programs read."""

from flow3r.export.arrays import load_reconstruction
from flow3r.export.write import FORMATS, check_export, write_reconstruction

__all__ = ["FORMATS", "check_export", "load_reconstruction", "write_reconstruction"]
