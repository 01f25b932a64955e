"""The command line: data, label, audit, train, adapt, reconstruct, plan, render, eval, reproduce, experiment, convert,
export, quickstart."""

import sys

import tyro

from flow3r import __version__
from flow3r.cli.data import data
from flow3r.cli.evaluation import evaluate, reproduce
from flow3r.cli.experiment import experiment
from flow3r.cli.footage import adapt, audit, label, quickstart
from flow3r.cli.networks import convert, export
from flow3r.cli.scenes import plan, reconstruct, render
from flow3r.cli.training import train
from flow3r.errors import Flow3rError

COMMANDS = {
    "data": data,
    "label": label,
    "audit": audit,
    "train": train,
    "adapt": adapt,
    "reconstruct": reconstruct,
    "plan": plan,
    "render": render,
    "eval": evaluate,
    "reproduce": reproduce,
    "experiment": experiment,
    "convert": convert,
    "export": export,
    "quickstart": quickstart,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; an error that a user can mend is one line on standard error and exit code 1."""
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(f"flow3r {__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="flow3r",
            description="3D geometry from video, learnt with factored flow. flow3r --version says which flow3r it is.",
            args=arguments,
        )
    except (Flow3rError, OSError) as error:  # of the system: a full disk, a folder that may not be written
        print(f"flow3r: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
