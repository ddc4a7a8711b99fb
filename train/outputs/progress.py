"""What a run says while it trains: a live line on a terminal, plain lines where the output is piped."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from concord.train.outputs.report import conflict_shares, score_line
from concord.train.steps.evaluation import OnRead, Reading


class RunConsole(Console):
    """A console whose end is a run's: where nobody reads it any more (`| head`), the run stops as SIGTERM stops it,
    after the step that it is in and with its state saved."""

    def on_broken_pipe(self) -> None:
        """Write no more, and ask the process to stop."""
        with suppress(SystemExit):  # with which rich would end the process in the middle of a step
            super().on_broken_pipe()
        signal.raise_signal(signal.SIGTERM)


def say(console: Console, text: str) -> None:
    """Print one plain line, as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def reading_bar(console: Console) -> Iterator[Reading]:
    """Whom to tell while examples are read: on a terminal, a bar of their share, which goes with this context."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

        def reading(what: str, total: int) -> OnRead:
            line = bar.add_task(what, total=total)
            return lambda examples: bar.advance(line, examples)

        yield reading


class ProgressDisplay:
    """Shows the steps of one epoch after the other.

    Args:
        console: where to write; its `is_terminal` decides between a live line and plain ones.
        epochs, total_steps: of the run.
        steps_per_epoch: of a whole epoch.
    """

    def __init__(self, console: Console, *, epochs: int, steps_per_epoch: int, total_steps: int) -> None:
        self._console, self._epochs = console, epochs
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._status = self._scores = ""
        self._live: Progress | None = None

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Start the line of `epoch` (from 0), `done` steps of which are behind the run already."""
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
        """One step is done."""
        if self._live is not None:
            self._live.advance(self._line)

    def show(self, entry: Mapping[str, Any], speed: float) -> None:
        """Show a logged step: its entry in metrics.jsonl, with the conflicts so far, and examples a second."""
        losses = " ".join(f"{task} {loss:.3f}" for task, loss in entry["losses"].items())
        shares = " ".join(f"{pair} {share:.0%}" for pair, share in conflict_shares(entry).items())
        status = f"loss {losses}  conflicts {shares or '-'}  {speed:.0f} examples/s"
        if self._live is not None:
            self._status = "  ".join(filter(None, [status, self._scores]))
            self._live.update(self._line, status=self._status)
        else:
            within = entry["step"] - self._epoch * self._steps_per_epoch
            say(self._console, f"epoch {self._epoch + 1}/{self._epochs}  step {within}/{self._steps}  {status}")

    def reading(self, what: str, total: int) -> OnRead:
        """Whom to tell while `total` examples are read: the live line shows the share of them, until all are."""
        done = 0

        def on_read(examples: int) -> None:
            nonlocal done
            done += examples
            if self._live is not None:
                status = f"{what} {done / total:.0%}" if done < total else self._status
                self._live.update(self._line, status=status)

        return on_read

    def show_scores(self, dev: Mapping[str, Mapping[str, float]]) -> None:
        """Print the dev scores, above the live line where there is one."""
        self._scores = score_line(dev)
        say(self._console, f"epoch {self._epoch + 1}/{self._epochs}  dev {self._scores}")

    def stop(self) -> None:
        """Take down the live line, so that what follows is not drawn over."""
        if self._live is not None:
            self._live.stop()
            self._live = None
