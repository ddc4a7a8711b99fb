"""What several runs say that go on side by side: a live line each on a terminal, plain lines with their names where the
output is piped."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from concord.bert.errors import one_line
from concord.train.outputs.live_line import Standing, live_line
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.reporters import JsonReporter, QuietReporter
from concord.train.outputs.summary import score_line
from concord.train.reporter import LONGEST_WARNING, Reporter


class SideBySide:
    """Tells of runs by the events that they print with --json.

    Args:
        reporter: that tells of the whole, and decides how: `ConsoleReporter`, `JsonReporter` or `QuietReporter`.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._standings: dict[str, Standing] = {}
        self._spread: dict[str, int] = {}
        self._warned: set[str] = set()
        self._live: Live | None = None

    def __enter__(self) -> "SideBySide":
        if isinstance(self.reporter, ConsoleReporter) and self.reporter.console.is_terminal:
            self._live = Live(get_renderable=self._lines, console=self.reporter.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _lines(self) -> Group:
        width = self.reporter.console.width
        lines = [f"{name}  {live_line(now, max(0, width - len(name) - 2))}" for name, now in self._standings.items()]
        return Group(*(Text(line[:width], no_wrap=True, overflow="ellipsis") for line in lines))

    def tell(self, name: str, event: Mapping[str, Any]) -> None:
        """An event of the run called `name`."""
        if isinstance(self.reporter, JsonReporter):
            self.reporter.pass_on(name, event)
            return
        handlers: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
            "plan": self._plan,
            "step": self._step,
            "evaluation": self._evaluation,
            "warning": self._warning,
            "end": self._end,
        }
        handler = handlers.get(event.get("event", ""))
        if handler:
            handler(name, event)

    def _say(self, name: str, text: str) -> None:
        if not isinstance(self.reporter, QuietReporter):
            self.reporter.say(f"{name}  {text}")

    def _plan(self, name: str, event: Mapping[str, Any]) -> None:
        now = self._standings.setdefault(name, Standing())
        self._spread[name] = event["steps_per_epoch"]
        now.epochs = -(-event["total_steps"] // event["steps_per_epoch"])
        now.steps = min(event["steps_per_epoch"], event["total_steps"])
        self._say(name, f"begins after step {event['done']} of {event['total_steps']}")

    def _step(self, name: str, event: Mapping[str, Any]) -> None:
        now, spread = self._standings[name], self._spread[name]
        now.epoch, now.step = event["epoch"] + 1, event["step"] - event["epoch"] * spread
        now.speed, now.conflicts = event["examples_per_second"], event["conflicts"]
        now.losses = {task: math.nan if loss is None else loss for task, loss in event["losses"].items()}
        if self._live is None:
            losses = " ".join(f"{task} {_number(loss)}" for task, loss in event["losses"].items())
            self._say(name, f"step {event['step']}  loss {losses}  {event['examples_per_second']:.0f} examples/s")

    def _evaluation(self, name: str, event: Mapping[str, Any]) -> None:
        self._say(name, f"step {event['step']}  dev {score_line(event['dev'])}")

    def _warning(self, name: str, event: Mapping[str, Any]) -> None:
        """What several runs warn of is told once."""
        text = str(event["text"])
        if text not in self._warned:
            self._warned.add(text)
            self.reporter.warn(f"{name}: {one_line(text, LONGEST_WARNING)}")

    def _end(self, name: str, event: Mapping[str, Any]) -> None:
        self._standings.pop(name, None)
        summary = event["summary"]
        self._say(
            name, f"done after {summary['seconds']:.0f} s: mean {summary['mean']:.3f} at step {summary['best_step']}"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
