"""flow3r: learn, reconstruct and measure 3D geometry from video with factored flow."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Flow", "Prediction", "Reconstruction", "Views", "load_model", "reconstruct", "write_reconstruction"]

_HOMES = {
    "load_model": "flow3r.model.checkpoints",
    "reconstruct": "flow3r.reconstruction",
    "write_reconstruction": "flow3r.export",
    "Flow": "flow3r.types",
    "Prediction": "flow3r.types",
    "Reconstruction": "flow3r.types",
    "Views": "flow3r.types",
}


def __getattr__(name: str) -> Any:
    """The public surface, imported when first used: `import flow3r` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'flow3r' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
