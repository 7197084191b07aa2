"""How far a run is, on standard error, so that what is printed can be piped away."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar:
    """One bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def at(self, done: float, text: str | None = None) -> None:
        """So much of the whole is done."""
        self._progress.update(self._task, completed=done)
        if text is not None:
            self._progress.update(self._task, description=text)


@contextmanager
def progress_bar(title: str, whole: float) -> Iterator[ProgressBar]:
    """A bar while the block runs; nothing where standard error is no terminal."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress, progress.add_task(title, total=whole))
