"""The `manyhands` command: its commands and its exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from manyhands.cli.problem import say

INTERRUPTED = 130
_COMMANDS = ("map", "queue", "worker")


class _Commands(click.Group):
    """The commands, each in a module of its own, which is imported for it alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"manyhands.cli.{cmd_name}"), f"{cmd_name}_command")
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="manyhands", prog_name="manyhands")
def manyhands() -> None:
    """Do many things at once: run Python functions over rows, durably and in parallel."""


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
