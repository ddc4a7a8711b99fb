"""The trials: a run is killed, given I/O errors, cut off from its power, or has its files damaged, and goes on.

Each yields how every single trial ended, in a word: in capitals where it must not end so.
"""

import random
import re
import shutil
import struct
from pathlib import Path

from concord.train.outputs.names import STATE_FILE
from tests.reliability.faults import FailAt, KillAt, PowerCuts, StopAt, fresh
from tests.reliability.processes import Command, different, leftovers, result, run, wait_for
from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, write_course_data

VARIANTS = {
    "pcgrad": ("--surgery", "pcgrad"),
    "gradvac in bf16": ("--amp", "bf16", "--surgery", "gradvac", "--average", "0.5", "--accumulate", "2"),
    "stages": ("--stages", "heads:1,all:1", "--threshold", "dev", "--pair-encoding", "joint,sts=separate"),
    "annealed": ("--batching", "annealed", "--loss-weights", "uncertainty", "--surgery", "pcgrad"),
}
WORDS = ["the", "was", "where", "is", "i", "saw", "can", "find", "a", "seen", ".", "?", *ADJECTIVES, *THINGS]
CONFIGURATION = "not the folder of a run"  # what is said of a folder without settings
# What every run on these data is warned of, damaged or not.
OF_LABELS = re.compile("every label is|to every dev example")


class Trials:
    """Runs of a small model on small data in a folder of their own.

    Args:
        folder: of all of it, which is emptied.
        seed: of what is drawn.
        variant: one of `VARIANTS`.

    Attributes:
        expected: what an uninterrupted run leaves.
    """

    def __init__(self, folder, seed, variant="pcgrad"):
        self.folder, self.draw, self.seed = fresh(Path(folder)), random.Random(seed), seed
        data = write_course_data(self.folder / "data")
        model = write_small_model(self.folder / "model", WORDS)
        self.arguments = [
            *("--data", data, "--model", model, "--device", "cpu", "--batch-size", "4", "--epochs", "2"),
            *("--log-every", "1", "--save-every", "2", "--evaluate-every", "4", *VARIANTS[variant]),
        ]
        self._count = 0
        whole = self.place()
        outcome = self.begin(whole)
        assert outcome.kind == "ok", outcome.err
        self.expected = result(whole)

    def place(self):
        """The folder of a new run, in a folder of its own for it and its token cache."""
        self._count += 1
        return fresh(self.folder / f"trial-{self._count}") / "run"

    def begin(self, out, fault=None):
        """Run the whole command in a new folder."""
        return run("run", [*self.arguments, "--out", out], fault)

    def go_on(self, out, fault=None):
        """Resume the run, or begin it in a new folder where it was killed before its settings were written."""
        if (out / "config.json").exists():
            return run("run", ["--resume", out], fault)
        shutil.rmtree(out, ignore_errors=True)
        return self.begin(out, fault)

    def ending(self, out, outcome):
        """How a run that came to its end ended: "the same end", and what else is to be said of it."""
        if outcome.kind != "ok":
            return f"NOT GONE ON WITH: {outcome.kind} {outcome.err.strip()[-300:]}"
        names = different(result(out), self.expected)
        left = leftovers(out.parent)
        found = ["the same end" if not names else f"DIFFERENT {' '.join(names)}"]
        return ", ".join(found + [f"LEFTOVERS {' '.join(left)}"] * bool(left))

    def kills(self, count):
        """SIGKILL at random moments and at random operations, again and again; then the run goes on to its end."""
        killed = 0
        while killed < count:
            out = self.place()
            for attempt in range(6):
                if self.draw.random() < 0.5:
                    fault, moment = KillAt(self.draw.randint(1, 160 if attempt == 0 else 60), out.parent), None
                else:
                    fault, moment = None, self.draw.uniform(0, 0.8)
                arguments = ["--resume", out] if (out / "config.json").exists() else [*self.arguments, "--out", out]
                if arguments[0] != "--resume":
                    shutil.rmtree(out, ignore_errors=True)
                command = Command("run", arguments, fault)
                if moment is not None:
                    wait_for(lambda: out.exists(), 20)  # noqa: B023 (it is called at once)
                    wait_for(lambda: False, moment)
                    command.kill()
                outcome = command.wait()
                if outcome.kind != "killed":
                    break
                killed += 1
                yield "killed"
            yield self.ending(out, outcome if outcome.kind == "ok" else self.go_on(out))
            shutil.rmtree(out.parent)

    def operations(self):
        """How many file operations a whole run has."""
        out = self.place()
        count = self.folder / "operations"
        assert self.begin(out, FailAt(0, out.parent, count=count)).kind == "ok"
        return int(count.read_text())

    def errors(self, numbers, stuck=False):
        """An I/O error at each of these operations; then the run goes on."""
        for number in numbers:
            out = self.place()
            outcome = self.begin(out, FailAt(number, out.parent, stuck))
            if outcome.kind == "ok":
                # A warning says that the token cache is not kept.
                yield self.ending(out, outcome)
            elif outcome.kind != "refused" or str(out.parent) not in outcome.err:
                yield f"NOT NAMED: {outcome.kind} {outcome.err.strip()[-300:]}"
            else:
                yield f"named, then {self.ending(out, self.go_on(out))}"
            shutil.rmtree(out.parent)

    def power_cuts(self, share):
        """Images of the disk, at this share of the operations of a run, in the state that a power cut may leave."""
        disk, images = fresh(self.folder / "disk"), self.folder / "images"
        fresh(images)
        outcome = self.begin(disk / "run", PowerCuts(disk, images, share, self.seed))
        assert outcome.kind == "ok", outcome.err
        for image in sorted(images.iterdir(), key=lambda path: int(path.name)):
            yield self._after_a_power_cut(image / "disk" / "run", int((image / "promised").read_text()))
            shutil.rmtree(image)

    def _after_a_power_cut(self, out, promised):
        begun = (out / "config.json").exists()
        if promised and not begun:
            return "SETTINGS LOST"
        outcome = self.go_on(out)
        ending = self.ending(out, outcome)
        lines = [line for line in outcome.out.splitlines() if line.startswith(("resumed", "warning"))]
        lines = [line for line in lines if not OF_LABELS.search(line)]
        after = [int(line.split()[3]) for line in lines if line.startswith("resumed    after step")]
        if promised and (not after or after[0] < promised):
            return f"STATE LOST: {lines} where step {promised} was saved, {ending}"
        # Between the two renames of a save there is the earlier state alone.
        if any(str(out) in line and f"{STATE_FILE}: missing" not in line for line in lines):
            return f"DAMAGED: {lines}, {ending}"
        return f"{'with a state' if after else 'before the first state'}, {ending}"

    def damages(self, count, share=1.0):
        """So many damages of each file of a stopped run, of a finished one and of the token cache, or of a share of
        these files."""
        stopped, finished = self.place(), self.place()
        outcome = self.begin(stopped, StopAt(7))
        assert outcome.kind == "stopped", outcome
        assert self.begin(finished).kind == "ok"
        run("evaluate", [finished])  # which judges the kernels where nobody has, and says how long it took
        told = run("evaluate", [finished]).out
        read = ("run/config.json", "run/tasks.json", "run/best/")
        for source, command, damaged in (
            (stopped, "resume", ("run/",)),
            (finished, "evaluate", read),
            (finished, "run", ("token-cache/",)),
        ):
            paths = [path.relative_to(source.parent) for path in sorted(source.parent.rglob("*")) if path.is_file()]
            for path in [path for path in paths if str(path).startswith(damaged)]:
                for _ in range(count if self.draw.random() < share else 0):
                    target = self.place()
                    shutil.copytree(source.parent, target.parent, dirs_exist_ok=True)
                    what = damage(target.parent / path, self.draw)
                    ended = self._damaged(target, command, told, path)
                    yield f"{command}: {ended}" + (f" ({path} {what})" if ended.isupper() else "")
                    shutil.rmtree(target.parent)

    def _damaged(self, target, command, told, path):
        if command == "evaluate":
            outcome = run("evaluate", [target])
            same = outcome.out == told
        else:
            if command == "run":
                shutil.rmtree(target)
            outcome = self.begin(target) if command == "run" else run("run", ["--resume", target])
            names = different(result(target), self.expected) if outcome.kind == "ok" else []
            if names == [path.name] and path.suffix == ".csv":
                return "the same end, and a table that nothing reads stays as it is"
            same = not names
        if outcome.kind != "ok":
            return outcome.kind
        if same:
            return "the same end"
        return "another end, with a warning" if f"\nwarning: {target}" in outcome.out else "SILENT"


def damage(path, draw):
    """Damage a file as disks, and people, do: cut it, empty it, fill it with zeros, flip a bit, remove it."""
    content = path.read_bytes()
    kind = draw.choice(["cut", "empty", "zeros", "flip", "flip", "flip", "flip", "remove", "more"])
    if kind == "remove" or not content:
        path.unlink()
        return "remove"
    place = _place(path, content, draw)
    flipped = bytearray(content)
    flipped[place] ^= 1 << draw.randrange(8)
    changed = {
        "cut": content[:place],
        "empty": b"",
        "zeros": content[:place] + bytes(len(content) - place),
        "flip": bytes(flipped),
        "more": content + b"\0",
    }
    path.write_bytes(changed[kind])
    return f"{kind} at {place}"


def _place(path, content, draw):
    """A place in a file; of tensors, as often in the length of the header, in the header and in what follows it."""
    if path.suffix != ".safetensors":
        return draw.randrange(len(content))
    header = 8 + struct.unpack("<Q", content[:8])[0]
    first, last = draw.choice([(0, 8), (8, header), (header, len(content))])
    return draw.randrange(first, last)
