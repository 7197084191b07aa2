"""The command `qhybridd`: the table of its commands, and how an error is shown.

Only what a command needs is imported, so that `--help` is quick.
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from qhybridd import __version__
from qhybridd.errors import QhybriddError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells expect it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that is imported when it is used."""

    module: str
    """Below `qhybridd.cli`; the command is the function of the command's name there."""
    help: str


COMMANDS: Final = {
    "keygen": Entry("keys", "Make this gateway's identity."),
    "peer": Entry("peers", "Exchange identities with other gateways: export, add, list, revoke."),
    "check": Entry("check", "Look at a configuration and say what is wrong with it."),
    "run": Entry("daemon", "Run the daemon in the foreground."),
    "status": Entry("show", "Show tunnels, links and peers: level, key, key store, why closed."),
    "rotate": Entry("daemon", "Give a tunnel a new key now."),
    "reload": Entry("daemon", "Apply a changed configuration without touching the rest."),
    "guard": Entry("guard", "The kernel's rule that keeps tunnels closed: show, load, close, remove."),
    "sim": Entry("sim", "Simulate a QKD link on its own: a run, a sweep, a day."),
    "fault": Entry("fault", "Break a simulated link on purpose, or mend it."),
    "bench": Entry("bench", "Measure how fast this machine simulates light and distils keys."),
    "eve": Entry("eve", "Stand in the middle of a simulated link and do something to the light."),
    "demo": Entry("daemon", "Two gateways, three tunnels, a QKD link and an eavesdropper, live."),
}
"""In the order in which a new operator needs them."""


class CommandTable(click.Group):
    """The group over `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command's module."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(f"qhybridd.cli.{entry.module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The list, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.command(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    envvar="QHYBRIDD_CONFIG",
    help="Configuration file.  [default: /etc/qhybridd/qhybridd.toml]",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="QHYBRIDD_SOCKET",
    help="The daemon's control socket.  [default: as configured]",
)
@click.option("--debug", is_flag=True, help="Show a traceback when the program itself fails.")
@click.version_option(__version__, prog_name="qhybridd")
@click.pass_context
def cli(ctx: click.Context, config: Path | None, socket: Path | None, debug: bool) -> None:
    """Keep the VPN tunnels between two gateways keyed against quantum computers.

    \b
    A new gateway, in five steps:
      qhybridd keygen                           make its identity
      qhybridd peer export -e gw.example:7420   print what the other one needs
      qhybridd peer add berlin.peer             take what the other one sent
      qhybridd check                            is the configuration right?
      systemctl enable --now qhybridd           (or: qhybridd run)

    \b
    Then:
      qhybridd status --watch                   what is open, on what, and until when
      qhybridd rotate wan --now                 a new key at once

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no daemon reached. Each error carries a code in
    brackets that docs/errors.md explains.
    """
    from qhybridd.cli.site import Site

    ctx.obj = Site(config, socket, debug)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows `?`, not an error
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = cli.main(words, prog_name="qhybridd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except click.Abort:
        click.echo("\nNot done.", err=True)  # a question had no answer
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except QhybriddError as error:
        from qhybridd.cli.failures import show

        show(error)
        return EXIT_UNREACHABLE if error.code == "control.unreachable" else EXIT_FAILED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, `head` for instance
        return EXIT_FAILED
    except Exception as error:
        if "--debug" in words:
            raise
        from qhybridd.cli.failures import show_defect

        show_defect(error)
        return EXIT_FAILED
    return result if isinstance(result, int) else 0
