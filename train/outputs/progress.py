"""What a run says while it trains: a live line on a terminal, plain lines where the output is piped."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from concord.bert.errors import visible
from concord.train.outputs.console import Output
from concord.train.outputs.log import conflict_shares
from concord.train.outputs.summary import score_line
from concord.train.reporter import Reporter


class OutputConsole(Console):
    """A console on an `Output`.

    Attributes:
        output: where it writes.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        self.output = Output(stderr=stderr)
        super().__init__(file=self.output, stderr=stderr)


class ConsoleReporter(Reporter):
    """Prints what it is told, and shows on a terminal how far an epoch, or else a reading, has come.

    Args:
        console: where to write, by default the standard output; its `is_terminal` decides between a live line and plain
            ones.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or OutputConsole()
        self._status = self._scores = ""
        self._live: Progress | None = None
        self._bar: Progress | None = None
        self._what, self._total, self._examples = "", 0, 0

    @property
    def unread(self) -> bool:
        """Whether nobody reads the console any more."""
        return isinstance(self._console, OutputConsole) and self._console.output.unread

    def hurry(self) -> None:
        """From now on wait for no reader of the console."""
        if isinstance(self._console, OutputConsole):
            self._console.output.hurry()

    def say(self, text: str) -> None:
        """Print one plain line, as it is but for what nobody would see."""
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """Show the share that is read, on a terminal: on the epoch's live line, or on a bar where there is none."""
        self._what, self._total, self._examples = what, total, 0
        if self._live is not None or not self._console.is_terminal:
            yield
            return
        with Progress(console=self._console, transient=True) as self._bar:
            self._bar_line = self._bar.add_task(what, total=total)
            try:
                yield
            finally:
                self._bar = None

    def read(self, examples: int) -> None:
        """Show that so many examples more are read; once all are, the live line shows again what it did before."""
        self._examples += examples
        if self._live is not None and self._total:
            share = self._examples / self._total
            self._live.update(self._line, status=f"{self._what} {share:.0%}" if share < 1 else self._status)
        elif self._bar is not None:
            self._bar.advance(self._bar_line, examples)

    def begin_training(self, *, steps_per_epoch: int, total_steps: int) -> None:
        """Keep what epochs and steps are counted against."""
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._epochs = -(-total_steps // steps_per_epoch)

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Start the live line of `epoch`."""
        self._epoch = epoch
        self._steps = min(self._steps_per_epoch, self._total_steps - epoch * self._steps_per_epoch)
        if not self._console.is_terminal:
            return
        self._live = Progress(
            TextColumn("epoch {task.fields[epoch]}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            # Where the terminal is narrow, this column alone is cut.
            TextColumn("{task.fields[status]}", table_column=Column(ratio=1, no_wrap=True)),
            console=self._console,
            expand=True,
        )
        self._line = self._live.add_task(
            "", total=self._steps, completed=done, epoch=f"{epoch + 1}/{self._epochs}", status=self._scores
        )
        self._live.start()

    def advance(self) -> None:
        """Move the live line on by a step."""
        if self._live is not None:
            self._live.advance(self._line)

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """Show a logged step on the live line, or print it."""
        losses = " ".join(f"{task} {loss:.3f}" for task, loss in entry["losses"].items())
        shares = " ".join(f"{pair} {share:.0%}" for pair, share in conflict_shares(entry).items())
        status = f"loss {losses}  conflicts {shares or '-'}  {speed:.0f} examples/s"
        if self._live is not None:
            self._status = "  ".join(filter(None, [status, self._scores]))
            self._live.update(self._line, status=self._status)
        else:
            within = entry["step"] - self._epoch * self._steps_per_epoch
            self.say(f"epoch {self._epoch + 1}/{self._epochs}  step {within}/{self._steps}  {status}")

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]]) -> None:
        """Print the dev scores, above the live line where there is one."""
        self._scores = score_line(dev)
        self.say(f"epoch {self._epoch + 1}/{self._epochs}  dev {self._scores}")

    def end_epoch(self) -> None:
        """Take down the live line, so that what follows is not drawn over."""
        if self._live is not None:
            self._live.stop()
            self._live = None
