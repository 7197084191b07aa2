"""How an error is shown: what, where, the way out. Never a traceback, never a control character of a stranger."""

import shutil
import sys
from typing import Final

import click

from qhybridd.errors import OperatorError, QhybriddError

_INDENT: Final = " " * 7
"""Where the text after `  fix: ` begins."""


def plain(text: str) -> str:
    """`text` without anything that a terminal would obey: messages may quote a peer or a file."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def show(error: QhybriddError) -> None:
    """Print an error, or each problem of a refused file."""
    problems: tuple[QhybriddError, ...] = getattr(error, "problems", (error,))
    for problem in problems:
        _show_one(problem)
    if len(problems) > 1:
        click.secho(f"{len(problems)} problems; nothing was changed.", err=True, bold=True)


def _show_one(error: QhybriddError) -> None:
    blame = "" if isinstance(error, OperatorError) else f" ({error.blame})"
    head = click.style(f"error{blame}:", fg="red", bold=True)
    click.echo(_fit(f"{head} {plain(error.message)} {click.style(f'[{error.code}]', dim=True)}"), err=True)
    if error.where:
        click.echo(f"   at: {plain(error.where)}", err=True)
    if error.hint:
        click.echo(_fit(f"  fix: {plain(error.hint)}"), err=True)


def _fit(line: str) -> str:
    """The line, folded to the terminal; a pipe or a file gets it whole, so that it can be searched."""
    if not sys.stderr.isatty():
        return line
    columns = max(40, shutil.get_terminal_size().columns)
    return click.wrap_text(line, columns, subsequent_indent=_INDENT)


def show_defect(error: Exception) -> None:
    """Print what the program did wrong itself: the kind of error and its place, not its text."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
    click.echo(f"error (program): {type(error).__name__} [program.state]", err=True)
    click.echo(f"   at: {place}", err=True)
    click.echo("  fix: This is a defect: please report it with what `qhybridd --debug …` prints.", err=True)
    sys.stderr.flush()
