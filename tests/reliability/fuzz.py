"""The long form of the fuzzing: python -m tests.reliability.fuzz [--inputs 100000] [--commands 500] [--seed 1]

Inputs go to every reader in this process, commands are whole runs in children. It prints each kind of fault, and a line
of figures, which docs/reliability.md keeps. Good is a result, or one bounded line of an InputError or an OSError;
anything else, more than `SECONDS` or more than `MEMORY` is a fault.
"""

import argparse
import math
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from concord.bert.errors import LONGEST, InputError, visible
from concord.train.outputs.provenance import commit
from tests.reliability.fuzzed_commands import fuzz_commands
from tests.reliability.fuzzed_readers import Reader, readers

SECONDS = 70  # for one input, which may be a tokenizer that its child tries for a minute
MEMORY = 2 << 30  # bytes beyond what the process has before


def judge(reader: Reader, folder: Path, found: Any) -> str:
    """taken or refused; raises whatever a reader may not raise, and AssertionError where its line is no good."""
    try:
        reader.read(folder, found)
    except InputError as error:
        message = str(error)
        assert len(message) <= LONGEST, len(message)
        assert message == visible(message)
        return "refused"
    except OSError as error:
        assert error.strerror, error
        return "refused"
    return "taken"


def fuzz_readers(inputs: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Try so many inputs, shared among the readers: how many were taken and refused, and a line for each fault."""
    tally: Counter[str] = Counter()
    faults: dict[tuple[str, str, str], str] = {}
    kinds = readers()
    share = inputs / sum(reader.weight for reader in kinds)
    for reader in kinds:
        began, before = time.monotonic(), tally.total()
        with tempfile.TemporaryDirectory() as folder:
            _fuzz(reader, Path(folder), math.ceil(share * reader.weight), seed, tally, faults)
        seconds = time.monotonic() - began
        print(f"{reader.name}: {tally.total() - before} in {seconds:.0f} s; so far {_counted(tally)}", flush=True)
    return tally, [f"{'; '.join(key)}: {example}" for key, example in faults.items()]


def _fuzz(
    reader: Reader, folder: Path, inputs: int, seed: int, tally: Counter[str], faults: dict[tuple[str, str, str], str]
) -> None:
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seeded(seed)
    @given(st.data())
    def try_all(data: Any) -> None:
        found = data.draw(reader.inputs)
        signal.alarm(SECONDS)
        try:
            tally[judge(reader, folder, found)] += 1
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            tally["fault"] += 1
            kind = (reader.name, type(error).__name__, _innermost(error))
            if kind not in faults:
                faults[kind] = f"{error}"[:200] + f" of {found!r}"[:300]
                print("FAULT", "; ".join(kind), faults[kind], flush=True)
        finally:
            signal.alarm(0)

    try_all()


def _counted(tally: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(tally.items()))


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "?" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


class _Slow(BaseException):
    """An input has taken longer than it may."""


def _on_alarm(*_: Any) -> None:
    raise _Slow


def main() -> int:
    """Run both parts, and print what they found; 1 where there were faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    faults, tally = [], Counter()
    began = time.monotonic()
    if given.commands:
        tally, faults = fuzz_commands(given.commands, given.seed, lambda fault: print("FAULT", fault, flush=True))
    signal.signal(signal.SIGALRM, _on_alarm)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    if given.inputs:
        of_readers, more = fuzz_readers(given.inputs, given.seed)
        tally, faults = tally + of_readers, faults + more
    seconds, counted = time.monotonic() - began, _counted(tally)
    print(f"seed {given.seed}, commit {commit()}: {counted}; {len(faults)} kinds of faults; {seconds:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
