"""The command ``webbkg``; its sub-commands are imported when they are called."""

from __future__ import annotations

import importlib
import sys

import click

import webbkg
from webbkg.errors import ParameterError, WebbkgError

#: Home and one line of help of each sub-command: showing the list imports none of them.
_COMMANDS = {
    "average": ("webbkg.cli.average", "Subtract the mean of dedicated background exposures."),
    "demo": ("webbkg.cli.demo", "Simulate a MIRI observation, subtract, compare with the truth."),
    "destripe": ("webbkg.cli.destripe", "Remove the stripes of the readout from exposures."),
    "i4i": ("webbkg.cli.i4i", "Subtract from each image a background made of the other dithers."),
    "simulate": ("webbkg.cli.simulate", "Simulate an observation whose truth is known."),
    "soss": ("webbkg.cli.soss", "Subtract the sky template from NIRISS SOSS exposures."),
    "validate": ("webbkg.cli.validate", "Check methods against simulations by numbers."),
    "wfss": ("webbkg.cli.wfss", "Subtract the sky template from grism exposures."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(webbkg.__version__, prog_name="webbkg")
def _group() -> None:
    """Background subtraction for JWST images and spectra."""


def main() -> None:
    """Run the command line: exit 0 if all is done, 1 on an error of the data, 2 of the call."""
    try:
        # Without standalone mode click returns the code of an Exit instead of exiting.
        sys.exit(_group.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("webbkg: interrupted", err=True)
        sys.exit(130)
    except ParameterError as error:
        click.echo(f"webbkg: {error}", err=True)
        sys.exit(2)
    except WebbkgError as error:
        click.echo(f"webbkg: {error}", err=True)
        sys.exit(1)
