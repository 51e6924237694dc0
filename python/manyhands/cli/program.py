"""The `manyhands` command: its commands and its exit codes."""

from __future__ import annotations

import os
import sys

import click

from manyhands.cli.map import map_command
from manyhands.cli.problem import say
from manyhands.cli.run import INTERRUPTED


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="manyhands", prog_name="manyhands")
def manyhands() -> None:
    """Do many things at once: run Python functions over rows, durably and in parallel."""


manyhands.add_command(map_command)


def run() -> int:
    """Run the command line and return its exit code: 0, 1, 2 or 130."""
    try:
        return int(manyhands.main(prog_name="manyhands", standalone_mode=False) or 0)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes the standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
