"""Commands that write a model for others: convert, export."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from flow3r.cli.command import PRINT, loads_weights
from flow3r.model.layouts import LayoutName


@loads_weights
def convert(
    source: Positional[str],
    target: Positional[Path],
    to: LayoutName = "ours",
    drop: tuple[str, ...] = (),
) -> None:
    """Write a checkpoint under the parameter names of another layout, to the bit; nothing is lost unless dropped.

    Args:
        source: File, folder, packaged name or hub id of the weights.
        target: File to write: .safetensors, or .bin or .pt for a pickled state dict of a public layout.
        to: Layout to write; that of the source is told by its keys.
        drop: Parts to leave out, by our names: flow_head, track_head, encoder.mask_token, ...
    """
    from flow3r.model.convert import convert as run

    found = run(source, target, to, drop)
    PRINT.print(f"{source} ({found.title}) -> {target} ({to})")


@loads_weights
def export(
    model: Positional[str],
    out: Annotated[Path, arg(aliases=["-o"])],
    views: int = 2,
    size: tuple[int, int] = (224, 224),
    pairs: int = 0,
) -> None:
    """Write a network as a graph of fixed sizes for other runtimes, checked against the network itself.

    Args:
        model: Name, file or hub id of the model.
        out: File to write: .onnx, or .pt2 for torch.export.
        views: Number of images.
        size: Height and width of the images.
        pairs: Number of ordered pairs of views to predict flow for.
    """
    from flow3r.model.checkpoints import load_model
    from flow3r.model.graph import export_graph

    for name, difference in export_graph(load_model(model), out, views, *size, pairs).items():
        PRINT.print(f"  {name:<18} differs by at most {difference:.1e} of its largest value")
