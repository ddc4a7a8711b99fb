"""Stands for a GPU machine's interpreter: python gpu_stand_in.py FOLDER -m MODULE ARGUMENTS...

Answers as the commands of `bench/gpu.sh` do, at once. FOLDER/faults.json says what else is done by the commands that
hold some words: {"words": {"say": TEXT, "sleep": SECONDS, "exit": CODE, "abort": true}}. FOLDER/calls.jsonl gets a line
when a command begins and one when it ends.
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path

ROW = {
    "group": "surgery",
    "name": "surgery + clip + AdamW",
    "peer": "concord",
    "seconds": {"median": 2e-3, "p20": 1e-3, "p80": 3e-3},
    "floor_seconds": 1e-3,
    "parity": ["tests/kernels/test_gelu.py"],
    "extra": {},
}
HEADER = {
    "date": "2026-01-01T12:30:00+00:00",
    "commit": "0123456789abcdef",
    "command": "pytest bench/",
    "device": {"device": "Stand-in GPU", "driver": "1.0"},
    "versions": {"torch": "2.11.0"},
    "parity": {"tests/kernels/test_gelu.py": {"passed": 3, "failed": 0, "skipped": 0}},
}


def answer(module, arguments):
    """What the command prints; the files that it leaves are written."""
    given = dict(itertools.pairwise(arguments))
    if module == "bench.gpu_environment":
        return json.dumps({"device": HEADER["device"], "versions": HEADER["versions"], "commit": HEADER["commit"]})
    if module == "train.doctor":
        return "    GELU: some  passed  error 1e-7 of 1e-6\n\n13 of 13 ops passed, in 40 cases"
    if module == "bench.captured_steps":
        return f"{given['--model']}: 24 steps, 3 graphs: losses and weights are the same bits with and without"
    if module == "bench.profile_steps":
        Path(given["--out"]).write_text("{}")
        return f"{given['--model']}, 3 tasks\nclass  ms a step\ngaps  0.1"
    if module == "bench.parity":
        Path(given["--out"]).mkdir()
        (Path(given["--out"]) / "tests.test_a.xml").write_text("<testsuites/>")
        return "22 of 22 modules passed; the slowest took 9 s: tests.test_a"
    if module == "train.run":
        Path(given["--out"]).mkdir()
        (Path(given["--out"]) / "summary.json").write_text("{}")
        return "kernels    triton\ngraphs     on: a step is captured\nspeed      1000 examples/s"
    if "--results" in given:
        folder = Path(given["--results"])
        folder.mkdir(parents=True, exist_ok=True)
        what = [argument for argument in arguments if argument.startswith("bench/")]
        case = {"tasks": 3, "file": what, "chosen": given.get("-k", "")}
        stem = f"20260101-{time.strftime('%H%M%S')}-{os.getpid()}"
        (folder / f"{stem}.json").write_text(json.dumps(HEADER | {"rows": [ROW | {"case": case}]}))
    return "3 passed in 0.01s"


def main():
    """Note the call, do what its faults say, answer."""
    folder, (_, module, *arguments) = Path(sys.argv[1]), sys.argv[2:]
    text = " ".join([os.environ.get("STAND_IN_TOOL", ""), module, *arguments]).strip()

    def note(event):
        with (folder / "calls.jsonl").open("a") as file:
            file.write(json.dumps([event, text, time.monotonic()]) + "\n")

    note("begins")
    faults = json.loads((folder / "faults.json").read_text())
    fault = next((own for words, own in faults.items() if words in text), {})
    print(fault.get("say", ""), flush=True)
    time.sleep(fault.get("sleep", 0))
    if fault.get("abort"):
        os.abort()
    if fault.get("exit"):
        sys.exit(fault["exit"])
    print(answer(module, arguments))
    note("ends")


if __name__ == "__main__":
    main()
