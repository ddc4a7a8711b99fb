"""What a run says while it trains: a live line on a terminal, plain lines where the output is piped."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

from concord.bert.errors import visible
from concord.train.outputs.console import Output
from concord.train.outputs.live_line import Standing, live_line, plan_text, time_text
from concord.train.outputs.log import conflict_shares
from concord.train.outputs.summary import score_line
from concord.train.reporter import Plan, Reporter


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
        self._now, self._began = Standing(), 0.0
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._what, self._total, self._examples = "", 0, 0

    @property
    def unread(self) -> bool:
        """Whether nobody reads the console any more."""
        return isinstance(self._console, OutputConsole) and self._console.output.unread

    @property
    def console(self) -> Console:
        """Where it writes."""
        return self._console

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
            self._now.reading = f"{self._what} {share:.0%}" if share < 1 else ""
        elif self._bar is not None:
            self._bar.advance(self._bar_line, examples)

    def begin_training(self, plan: Plan) -> None:
        """Print what is ahead, and keep what epochs and steps are counted against."""
        self._plan, self._timed, self._done = plan, False, 0
        self._epochs = -(-plan.total_steps // plan.steps_per_epoch)
        if plan.done < plan.total_steps:
            self.say(f"plan       {plan_text(plan)}")

    def begin_epoch(self, epoch: int, done: int) -> None:
        """Start the live line of `epoch`."""
        now, spread = self._now, self._plan.steps_per_epoch
        now.epoch, now.epochs, now.step = epoch + 1, self._epochs, done
        now.steps = min(spread, self._plan.total_steps - epoch * spread)
        self._began = self._began or time.monotonic()
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._line, console=self._console, refresh_per_second=4)
            self._live.start()

    def _line(self) -> Text:
        return Text(live_line(self._now, self._console.width), no_wrap=True, overflow="ellipsis")

    def advance(self) -> None:
        """Move the live line on by a step."""
        self._now.step += 1
        self._done += 1
        left = self._plan.total_steps - self._plan.done - self._done
        self._now.seconds_left = (time.monotonic() - self._began) / self._done * left

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """Show a logged step on the live line, or print it; the first one tells how long the rest will take."""
        now = self._now
        now.losses, now.speed, now.conflicts = entry["losses"], speed, conflict_shares(entry)
        if not self._timed:
            self._timed = True
            left = self._plan.total_steps - entry["step"]
            self.say(f"time       {time_text(self._plan, left, entry['examples'], speed)}")
        if self._live is None:
            losses = " ".join(f"{task} {loss:.3f}" for task, loss in entry["losses"].items())
            shares = " ".join(f"{pair} {share:.0%}" for pair, share in now.conflicts.items())
            status = f"loss {losses}  conflicts {shares or '-'}  {speed:.0f} examples/s"
            within = entry["step"] - (now.epoch - 1) * self._plan.steps_per_epoch
            self.say(f"epoch {now.epoch}/{now.epochs}  step {within}/{now.steps}  {status}")

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]], step: int) -> None:
        """Print the dev scores, above the live line where there is one."""
        self._now.scores = score_line(dev)
        self.say(f"epoch {self._now.epoch}/{self._now.epochs}  dev {self._now.scores}")

    def end_epoch(self) -> None:
        """Take down the live line, so that what follows is not drawn over."""
        if self._live is not None:
            self._live.stop()
            self._live = None
