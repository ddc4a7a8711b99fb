"""Small data in the course layout, and the command lines of runs on it."""

import csv
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from concord import RunConfig, fine_tune
from concord.train.command import run_command

# What computes is told, so that nothing is timed or judged first.
_PLAIN = {"device": "cpu", "kernels": "torch", "products": "torch", "self_check": "off", "cuda_graphs": "off"}
SMALL = {"model": "tiny", "epochs": 1, "batch_size": 4, "max_length": 32, **_PLAIN}
ADJECTIVES = ["awful", "poor", "plain", "good", "superb"]
THINGS = ["film", "meal", "song", "hotel", "garden", "lamp"]


def write_table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(header)
        writer.writerows([index, *row] for index, row in enumerate(rows))


def write_course_data(directory, examples=24):
    """Small sets of the three tasks in the course layout."""
    draw = random.Random(5)
    directory.mkdir()
    pair_columns = ["sentence1", "sentence2"]
    for split, count in (("train", examples), ("dev", 10), ("test-student", 6)):
        labelled = split != "test-student"
        sst, quora, sts = [], [], []
        for index in range(count):
            level, thing, other = draw.randrange(5), draw.choice(THINGS), draw.choice(THINGS)
            name = f"{split}-{index}"
            sst.append([name, f" The {thing} was {ADJECTIVES[level]} .", level])
            quora.append([name, f"Where is the {thing}?", f"Where can I find the {other}?", float(thing == other)])
            sts.append([name, f"I saw a {thing}.", f"A {other} was seen.", 5.0 if thing == other else level / 4])
        columns = {"ids-sst": ["sentence", "sentiment"]}
        columns |= {"quora": [*pair_columns, "is_duplicate"], "sts": [*pair_columns, "similarity"]}
        for stem, rows in (("ids-sst", sst), ("quora", quora), ("sts", sts)):
            header = ["", "id", *columns[stem]]
            if not labelled:
                header, rows = header[:-1], [row[:-1] for row in rows]
            write_table(directory / f"{stem}-{split}.csv", header, rows)
    return directory


def run_in_another_process(directory):
    """Another process writes the log of the run in `directory`."""
    return lock_of_another_process(directory / "metrics.jsonl")


@contextmanager
def lock_of_another_process(path):
    """Another process has the lock on a file."""
    lines = (
        "import fcntl, sys",
        "file = open(sys.argv[1], 'ab')",
        "fcntl.lockf(file, fcntl.LOCK_EX)",
        "print(flush=True)",
    )
    code = "\n".join([*lines, "input()"])
    arguments = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def command(data, out, *more):
    """A run of a few seconds, in fp32: what a bare --amp takes depends on the processor."""
    return [
        *("--data", str(data), "--model", "tiny", "--out", str(out), "--batch-size", "4", "--epochs", "2"),
        *("--log-every", "1", "--device", "cpu", "--surgery", "pcgrad", *more),
    ]


def trained(folder, **settings):
    """What `fine_tune` returns of a small run on `folder`/data, in a thread that is not the main one."""
    config = RunConfig(data=str(folder / "data"), **SMALL | settings)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(fine_tune, config, folder / "run").result()


def refused(capsys, main, arguments):
    """The one line that a command prints as it exits with code 2."""
    assert run_command(main, [str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1, captured
    assert captured.startswith("error: ")
    return captured
