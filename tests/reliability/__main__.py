"""All trials in numbers: python -m tests.reliability [kills errors power mounted damage readers] [--count N] ...

Prints a row a trial, as they stand in docs/reliability.md, and fails where one ended as it must not.
"""

import argparse
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from tests.reliability import mounted, readers
from tests.reliability.trials import VARIANTS, Trials

COUNTS = {"kills": 200, "errors": 1, "power": 0.25, "mounted": 12, "damage": 8, "readers": 1000}


def kills(folder, count, seed):
    """SIGKILLs, shared out among the variants."""
    for variant in VARIANTS:
        yield from Trials(folder / "kills", seed, variant).kills(count // len(VARIANTS))


def errors(folder, every, seed):
    """An I/O error at each `every`th operation, and then at all that follow, too."""
    trials = Trials(folder / "errors", seed)
    last = trials.operations()
    yield from trials.errors(range(1, last + 1, every))
    yield from (f"all later ones too: {ending}" for ending in trials.errors(range(1, last + 1, 4 * every), stuck=True))


def power(folder, share, seed):
    """Power cuts at this share of the operations, of each variant."""
    for variant in VARIANTS:
        yield from Trials(folder / "power", seed, variant).power_cuts(share)


def damage(folder, count, seed):
    """So many damages of each file."""
    yield from Trials(folder / "damage", seed).damages(count)


def damage_of_readers(folder, count, seed):
    """So many damages of a file of tensors, and of a token cache."""
    (folder / "readers").mkdir()
    yield from (f"tensors: {ending}" for ending in readers.damaged_tensors(folder / "readers", count, seed))
    yield from (f"token cache: {ending}" for ending in readers.damaged_caches(folder / "readers", count, seed))


TRIALS = {
    "kills": kills,
    "errors": errors,
    "power": power,
    "mounted": mounted.cuts,
    "damage": damage,
    "readers": damage_of_readers,
}


def must_not(ending):
    """Whether a trial ended as it must not, which stands in capitals."""
    return any(word.strip(":").isupper() and len(word) > 4 for word in ending.split())


def main():
    """Run what is asked for; 1 where any trial ended as it must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__.splitlines()[0])
    parser.add_argument("trials", nargs="*", help=f"of {', '.join(TRIALS)} (default all but mounted, which needs root)")
    parser.add_argument(
        "--count",
        type=float,
        help="kills in all; every so many operations an error; share of them "
        "that a power cut comes at; power cuts of each mount; damages of each file",
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if unknown := set(given.trials) - TRIALS.keys():
        parser.error(f"no trials are called {' '.join(unknown)}")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in given.trials or [name for name in TRIALS if name != "mounted"]:
            count = COUNTS[name] if given.count is None else given.count
            count = count if name == "power" else int(count)
            began, found = datetime.now(UTC), Counter()
            for ending in TRIALS[name](Path(folder), count, given.seed):
                found[ending] += 1
                if must_not(ending):
                    failed = True
                    print(f"{name}: {ending}", flush=True)
            endings = "; ".join(f"{ending}: {number}" for ending, number in sorted(found.items()))
            seconds = (datetime.now(UTC) - began).total_seconds()
            print(f"| {name} | {found.total()} | {endings} | {seconds:.0f} s |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
