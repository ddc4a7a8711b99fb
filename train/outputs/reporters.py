"""Other ways to tell of a run than by its terminal's lines: events as JSON for programs, and next to nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from concord.bert.errors import one_line, visible
from concord.train.outputs.console import Output
from concord.train.outputs.log import conflict_shares
from concord.train.outputs.strict_json import json_text
from concord.train.reporter import LONGEST_WARNING, Plan, Reporter

# What an event of a step has of its entry in metrics.jsonl, which has the conflicts by layer besides.
_OF_STEP = ("step", "epoch", "losses", "gradient_norms", "cosines", "learning_rate", "examples", "tokens", "seconds")


class _OutputReporter(Reporter):
    """Writes to a standard stream of the process, which may lose its reader."""

    def __init__(self, output: Output) -> None:
        self._output = output

    @property
    def unread(self) -> bool:
        """Whether nobody reads the stream any more."""
        return self._output.unread

    def hurry(self) -> None:
        """From now on wait for no reader of the stream."""
        self._output.hurry()

    def _line(self, text: str) -> None:
        self._output.write(f"{text}\n")
        self._output.flush()


class QuietReporter(_OutputReporter):
    """Says nothing but warnings, on the error output."""

    def __init__(self) -> None:
        super().__init__(Output(stderr=True))

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._line(f"warning: {one_line(text, LONGEST_WARNING)}")


class JsonReporter(_OutputReporter):
    """Writes an event a line to the standard output, as a JSON object with `event`, its kind: begin, plan, step,
    evaluation, reading, say, warning, end. Numbers that are not finite are null."""

    def __init__(self) -> None:
        super().__init__(Output())

    def pass_on(self, name: str, event: Mapping[str, Any]) -> None:
        """An event of one of several runs, with the run's name."""
        self._line(json_text({**event, "run": name}))

    def _event(self, kind: str, **more: Any) -> None:
        self._line(json_text({"event": kind, **more}))

    def say(self, text: str) -> None:
        """A line of text."""
        self._event("say", text=visible(text))

    def warn(self, text: str) -> None:
        """A warning."""
        self._event("warning", text=one_line(text, LONGEST_WARNING))

    @contextmanager
    def reading(self, what: str, total: int) -> Iterator[None]:
        """What a model reads now, and of how many examples."""
        self._event("reading", what=what, examples=total)
        yield

    def open_run(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        """The folder and the settings of a run, and the steps that it has behind it."""
        self._event("begin", directory=str(directory), step=step, settings=dict(settings))

    def begin_training(self, plan: Plan) -> None:
        """What is ahead."""
        self._event("plan", **asdict(plan))

    def show_step(self, entry: Mapping[str, Any], speed: float) -> None:
        """A logged step, with the share of steps in which each pair of tasks conflicted."""
        own = {name: entry[name] for name in _OF_STEP}
        self._event("step", **own, conflicts=conflict_shares(entry), examples_per_second=speed)

    def show_scores(self, dev: Mapping[str, Mapping[str, float | None]], step: int) -> None:
        """An evaluation."""
        self._event("evaluation", step=step, dev=dev)

    def finish(self, directory: Path, summary: Mapping[str, Any]) -> None:
        """The end of a run that is done, with its summary."""
        self._event("end", directory=str(directory), summary=dict(summary))
