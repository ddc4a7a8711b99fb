"""A large set through the token cache: python -m bench.large_sets [--rows N] [--read-rows N] [--folder DIR]

Made-up rows, which are in memory one at a time, are tokenised, written and mapped, and then mapped once more from their
file. Printed are seconds, rows a second, bytes on the disk, and the peak of the memory of all processes together. Then
some of them are written as a .csv and read as a run reads it, with a dev set held out. Linux alone tells the memory.
"""

import argparse
import csv
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from concord.bert.models import load_model
from concord.train.data.sources import open_source
from concord.train.data.tasks import Example, select_tasks
from concord.train.data.tokenized import TokenCache, tokenize_split
from concord.train.outputs.progress import ConsoleReporter
from concord.train.settings.definitions import TableSpec

_BEGINNINGS = ("over", "sub", "re", "un", "pre", "mis", "out", "inter")
_ENDINGS = ("view", "cast", "turn", "lay", "place", "write", "mark", "line", "point", "print", "run", "take")
_SHORT = ("the", "a", "of", "and", "to", "was", "it", "film", "very", "not")
_WORDS = [one + other for one in _BEGINNINGS for other in _ENDINGS] + [*_SHORT]
_SECONDS = 0.2  # between two looks at the memory


class Rows(Sequence[Example]):
    """So many rows of 8 to 24 words, each made when it is asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Example:
        if number >= self._count:
            raise IndexError
        draw = (number * 2654435761) & 0xFFFFFFFF
        words = (_WORDS[(draw * (place + 3) >> 7) % len(_WORDS)] for place in range(8 + draw % 17))
        return Example(str(number), " ".join(words), None, float(draw % 5))


class Peak:
    """The most memory that this process and those it began have had together, in a thread that looks now and then.

    Attributes:
        resident: bytes, pages of files among them, those that processes share counted once a process.
    """

    def __init__(self) -> None:
        self.resident = 0
        self._over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._over.wait(_SECONDS):
            self.resident = max(self.resident, sum(_resident(process) for process in _family(os.getpid())))

    def end(self) -> float:
        """Look no more; the peak in MB."""
        self._over.set()
        return self.resident / 1e6


def _family(process: int) -> Iterator[int]:
    yield process
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            for child in (task / "children").read_text().split():
                yield from _family(int(child))
        except OSError:  # it has ended meanwhile
            continue


def _resident(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(rows: int, folder: Path) -> None:
    """Print the figures of a set that is not in the cache yet, and of the same one once it is."""
    (task,), tokenizer = select_tasks(["sst"], None), load_model("minilm", seed=1).tokenizer
    reporter = ConsoleReporter()
    for what in ("tokenised, written and mapped", "mapped from its file"):
        peak, began = Peak(), time.perf_counter()
        cache = TokenCache(folder, reporter)
        split = tokenize_split(
            task, Rows(rows), tokenizer, pair_encoding="joint", max_length=128, cache=cache, reporter=reporter
        )
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(
            f"{what}: {rows} rows, {len(split.ids)} tokens in {seconds:.0f} s, {rows / seconds:.0f} rows/s; "
            f"{size} bytes on the disk; peak {peak.end():.0f} MB"
        )
        del split


def measure_reading(rows: int, folder: Path) -> None:
    """Print what it takes to read a .csv of so many rows."""
    path = folder / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([example.first, int(example.label)] for example in Rows(rows))
    peak, began, before = Peak(), time.perf_counter(), _resident(os.getpid())
    source = open_source(str(path), TableSpec(name="rows", train=str(path), named_by=str(path)))
    (task,) = source.tasks(["rows"])
    count = sum(len(source.read(task, split, skip_bad_rows=False).examples) for split in ("train", "dev"))
    seconds = time.perf_counter() - began
    print(
        f"read from a .csv of {path.stat().st_size} bytes: {count} rows in {seconds:.0f} s; "
        f"{peak.end() - before / 1e6:.0f} MB more"
    )


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description="A large set through the token cache.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--read-rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, default=Path("."), help="on whose disk the cache lies meanwhile")
    arguments = parser.parse_args()
    began = time.perf_counter()
    for _ in Rows(arguments.rows):
        pass
    print(f"to make the rows up once, which each pass does again: {time.perf_counter() - began:.0f} s")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(arguments.rows, Path(folder))
        measure_reading(arguments.read_rows, Path(folder))


if __name__ == "__main__":
    main()
