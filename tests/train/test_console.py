"""The standard output whose reader has gone, reads no more, or is a full disk; and the signals that ask for a stop."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from concord.train.command import run_command
from concord.train.outputs.console import Output, discard
from concord.train.outputs.progress import ConsoleReporter, OutputConsole
from concord.train.outputs.stopping import StopRequest, stop_on_signal
from concord.train.reporter import SILENT, Reporter

LINE = "x" * 1000 + "\n"


@contextmanager
def piped():
    """Within this context, and so within one phase of a test, the standard output is a pipe, which this reads."""
    reading, writing = os.pipe()
    earlier = sys.stdout
    with os.fdopen(reading, "rb", 0) as reader, os.fdopen(writing, "w") as sys.stdout:
        try:
            yield reader
        finally:
            discard(sys.stdout)
            sys.stdout = earlier


def later(seconds, *numbers):
    """Has these signals sent to this process, one after the other."""

    def send():
        for number in numbers:
            time.sleep(seconds)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """Signals have their default handlers, which `nohup` takes from a closed terminal's."""
    earlier = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def test_a_reader_that_has_gone_ends_the_output_and_asks_for_a_stop():
    with piped() as reader:
        reporter = ConsoleReporter()
        stop = StopRequest(reporter)
        reporter.say("first")
        assert not stop.made
        assert reader.read(100) == b"first\n"
        reader.close()
        reporter.say("second")
        assert stop.made
        reporter.say("third")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_full_pipe_that_nobody_reads_does_not_keep_a_signal_from_asking_for_a_stop(number):
    with piped():
        reporter = ConsoleReporter()
        stop = StopRequest(reporter)
        with stop_on_signal(stop):
            thread, began, lines = later(0.3, number), time.monotonic(), 0
            while not stop.made and lines < 10_000:
                reporter.say(LINE)
                lines += 1
        thread.join()
        assert 0.2 < time.monotonic() - began < 5
        assert lines < 200, "the pipe holds no more"
        reporter.say("and nothing waits from here on")
        assert reporter.unread


def test_after_a_stop_is_asked_for_nothing_waits_for_a_pipe_that_was_full_before():
    with piped() as pipe:
        os.set_blocking(sys.stdout.fileno(), False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(sys.stdout.fileno(), b"x" * 65536)
        os.set_blocking(sys.stdout.fileno(), True)
        reporter = ConsoleReporter()
        with stop_on_signal(StopRequest(reporter)):
            signal.raise_signal(signal.SIGTERM)
        drain = threading.Timer(5, pipe.read, (1 << 20,))  # which lets go a write that waits after all
        drain.start()
        reporter.say("stopped")
        assert reporter.unread
        drain.cancel()


def test_a_reader_that_still_reads_gets_what_is_said_after_a_stop_is_asked_for():
    with piped() as reader:
        reporter = ConsoleReporter()
        with stop_on_signal(StopRequest(reporter)):
            signal.raise_signal(signal.SIGTERM)
        reporter.say("go on with: --resume")
        assert reader.read(100) == b"go on with: --resume\n"


@pytest.mark.parametrize(
    ("numbers", "ends"),
    [
        ((signal.SIGTERM, signal.SIGTERM), True),
        ((signal.SIGINT, signal.SIGTERM), True),
        ((signal.SIGHUP, signal.SIGHUP), False),
        ((signal.SIGUSR1, signal.SIGTERM), False),
        ((signal.SIGTERM, signal.SIGHUP), False),
    ],
)
def test_a_second_signal_ends_a_run_at_once_where_somebody_insists(numbers, ends):
    stop, ended = StopRequest(), False
    try:
        with stop_on_signal(stop):
            for number in numbers:
                signal.raise_signal(number)
    except KeyboardInterrupt:
        ended = True
    assert stop.made
    assert ended == ends


def test_a_signal_that_the_process_ignores_stays_ignored():
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop_on_signal(stop):
            signal.raise_signal(signal.SIGHUP)
        assert not stop.made
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_in_another_thread_signals_stay_as_they_are():
    handlers = []

    def run():
        with stop_on_signal(StopRequest()):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(
    "say", [lambda: ConsoleReporter().say("line"), lambda: print("line"), lambda: print(LINE * 10)]
)
def test_a_full_disk_names_the_standard_output(monkeypatch, capsys, say):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_command(lambda arguments: say()) == 2
    assert capsys.readouterr().err == "error: <stdout>: No space left on device\n"


def test_plain_prints_that_nobody_reads_end_a_command_as_a_stop_does():
    with piped() as reader:
        reader.close()
        assert run_command(lambda arguments: print(LINE)) == 130


def test_what_is_said_shows_what_nobody_would_see(capsys):
    ConsoleReporter().say("a\x1b[2J\u200bb")
    assert capsys.readouterr().out == "a\\x1b[2J\\u200bb\n"


def test_a_warning_is_bounded():
    class Told(Reporter):
        def say(self, text):
            lines.append(text)

    lines = []
    Told().warn("x" * 10_000)
    assert len(lines[0]) < 2100


def test_the_console_writes_to_the_error_output_where_it_is_asked_to(capsys):
    ConsoleReporter(OutputConsole(stderr=True)).say("aside")
    assert capsys.readouterr() == ("", "aside\n")
    assert not SILENT.unread
    assert Output().write("abc") == 3
