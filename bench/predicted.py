"""What a training step should take on an H200, by what it asks of it: python -m bench.predicted [--write FILE].

It is no measurement. Every launch is counted (`bench.counted_steps`), with the bytes that it has to move and the
operations that it has to do. Its floor is the longer of both at the rates that an H200 was seen to reach. Its
prediction is the floor divided by the share of the limit that its class is assumed to reach, or what any kernel takes
if that is longer, and the gap before the next launch in a CUDA graph. `python -m bench.profile_steps` has the measured
times beside it.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.counted_steps import CountedStep, Operation
from bench.lengths import read_lengths
from bench.page_sections import ROOT, update_page
from bench.step_cases import MODELS
from concord.bert.errors import InputError, one_line
from concord.train.command import run_command
from concord.train.flags import OneLineParser
from concord.train.profiles.kernel_classes import PRODUCTS, class_of

BEGIN, END = "<!-- predicted: begin -->", "<!-- predicted: end -->"
TASKS = (3, 8, 16)
GAPS = "gaps"
_PROFILED = {"lengths": "course", "tasks": TASKS[0], "batch": 32, "dtype": "bf16"}  # what a profile may stand beside
# Seen on an H200: bytes a second that are copied, counting both directions, and bf16 operations a second.
_COPIED, _MULTIPLIED = 4.3e12, 790e12
_LEAST, _GAP = 2e-6, 0.42e-6  # seconds of any kernel, and from one to the next within a graph
# The share of the limit that a class is assumed to reach, until it is measured: what its loads in flight, tiles and
# programs let expect. Small launches take `_LEAST` whatever stands here.
_SHARES = {
    PRODUCTS: 0.75,
    "weight gradients": 0.44,
    "attention forward": 0.38,
    "attention backward": 0.28,
    "first tokens' attention": 0.3,
    "LayerNorm": 0.42,
    "GELU": 0.58,
    "Gram matrix": 0.83,
    "AdamW": 0.9,
}
_OTHER_SHARE = 0.5
_FROM_TABLES = ("table_keys", "table_pieces", "clear_tables")


@dataclass(frozen=True)
class Prediction:
    """One class of a step's launches: how many, bytes they move, their operations, floor and prediction in seconds."""

    name: str
    launches: int
    bytes: float
    operations: float
    floor: float
    predicted: float


def predict(step: CountedStep) -> list[Prediction]:
    """The classes of a step's launches, the longest first, and the gaps between them last."""
    found = step.operations()
    by_class: dict[str, list[tuple[float, float]]] = {}
    for operation in found:
        by_class.setdefault(class_of(operation.name), []).append((_moved(operation, step), _computed(operation, step)))
    classes = [_of_class(name, members) for name, members in by_class.items()]
    gaps = Prediction(GAPS, 0, 0, 0, 0, len(found) * _GAP)
    return [*sorted(classes, key=lambda own: -own.predicted), gaps]


def _of_class(name: str, members: Sequence[tuple[float, float]]) -> Prediction:
    floors = [max(moved / _COPIED, computed / _MULTIPLIED) for moved, computed in members]
    share = _SHARES.get(name, _OTHER_SHARE)
    return Prediction(
        name,
        len(members),
        sum(moved for moved, _ in members),
        sum(computed for _, computed in members),
        sum(floors),
        sum(max(_LEAST, floor / share) for floor in floors),
    )


def _moved(operation: Operation, step: CountedStep) -> float:
    """Bytes that a launch reads and writes: its tensors once, but for those of which it reads a part, or writes too."""
    model, name = MODELS[step.model], operation.name.strip("_")
    row = step.tokens * model.hidden_size * 2  # bytes of a hidden state of the batch in bf16
    if name == "embedding_forward_kernel":
        return 5 * row
    if name.startswith(_FROM_TABLES):
        return 2 * row / 3  # of each of the three launches; keys are a few bytes a token
    if name in ("gram_products_kernel", "gram_tiles_kernel", "combine_adamw_kernel"):
        tasks, parameters = max((shape for shape in operation.shapes if len(shape) == 2), key=lambda shape: shape[-1])
        # A row of the table of words is read if one of the task's tokens is that word: of each token, at most.
        words = model.vocab_size * model.hidden_size if tasks > 1 else 0
        rows = step.tokens * model.hidden_size if tasks > 1 else 0
        merged = 2 * (tasks * (parameters - words) + min(rows, tasks * words))
        return merged + (26 * parameters if name == "combine_adamw_kernel" else 0)
    return operation.bytes


def _computed(operation: Operation, step: CountedStep) -> float:
    """Operations of the products of a launch."""
    name, shapes = operation.name.strip("_"), operation.shapes
    if name in ("aten::mm", "aten::addmm", "aten::addmm_"):
        matrices = [shape for shape in shapes if len(shape) == 2]
        # In place the target comes first, otherwise the result last.
        (rows, inner), (_, columns) = matrices[-2:] if name == "aten::addmm_" else matrices[:2]
        return 2.0 * rows * inner * columns
    if name == "task_products_kernel":
        (rows, m), (_, n) = shapes[:2]
        return 2.0 * rows * m * n
    if name.startswith(("short_attention", "mixed_attention")):
        squares = sum(_mean_square(number) for number in range(step.tasks)) * step.batch
        return (4 if "forward" in name else 10) * squares * MODELS[step.model].hidden_size
    return 0


def _mean_square(number: int) -> float:
    """Of the lengths of the sequences of the task that stands there in a counted step."""
    histogram = list(read_lengths().values())[number % 3]
    return sum(length**2 * count for length, count in histogram.items()) / sum(histogram.values())


@dataclass(frozen=True)
class Measured:
    """A step as `bench.profile_steps` has profiled it: on which device, and class -> seconds."""

    device: str
    seconds: Mapping[str, float]


def table(step: CountedStep, classes: Iterable[Prediction], measured: Measured | None = None) -> str:
    """A step's classes in Markdown, and their sum; measured: None where nothing was."""
    rows = [(own.name, own.launches, own.bytes, own.operations, own.floor, own.predicted) for own in classes]
    rows.append(("all", *(sum(row[column] for row in rows) for column in range(1, 6))))
    of_device = f" on {measured.device}" if measured else ""
    lines = [
        f"#### {step.model}, {step.tasks} tasks of {step.batch}, {step.tokens:,} rows, bf16",
        "",
        f"| class | launches | MB | GFLOP | floor, ms | predicted, ms | measured{of_device}, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, launches, moved, computed, floor, predicted in rows:
        seconds = "not yet measured" if measured is None else f"{measured.seconds.get(name, 0.0) * 1e3:.3f}"
        lines.append(
            f"| {name} | {launches} | {moved / 1e6:,.1f} | {computed / 1e9:,.1f} | {floor * 1e3:.3f} "
            f"| {predicted * 1e3:.3f} | {seconds} |"
        )
    return "\n".join(lines)


def read_measured(path: Path) -> tuple[str, Measured]:
    """The model that `bench.profile_steps` has profiled on a GPU, and what it measured; InputError for another file,
    and for a profile of other steps than are predicted."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        seconds = {own["name"]: float(own["seconds"]) for own in found["classes"]}
        model, case, device = str(found["case"].pop("model")), dict(found["case"]), str(found["device"])
        on_gpu = found["host_launches"] is not None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: expected what python -m bench.profile_steps --out has written") from None
    if case != _PROFILED or not on_gpu:
        what = ", ".join(f"{name} {value}" for name, value in case.items())
        expected = ", ".join(f"{name} {value}" for name, value in _PROFILED.items())
        raise InputError(f"{path}: a profile of {one_line(what)} on {one_line(device)}, expected {expected} on a GPU")
    return model, Measured(device, seconds | {"all": sum(seconds.values())})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or one step's classes as JSON, or write the page's section; InputError without its markers."""
    parser = OneLineParser(prog="python -m bench.predicted", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, help="one model alone")
    parser.add_argument("--tasks", type=int, choices=range(1, 17), metavar="1..16", help="one number of tasks alone")
    parser.add_argument(
        "--json", action="store_true", help="the classes of one step, as JSON: with --model and --tasks"
    )
    parser.add_argument(
        "--write", nargs="?", type=Path, const=ROOT / "docs" / "performance.md", help="a page to write to"
    )
    parser.add_argument("--measured", type=Path, nargs="*", default=[], help="what bench.profile_steps has written")
    given = parser.parse(arguments)
    measured = dict(map(read_measured, given.measured))
    steps = [
        CountedStep(model, tasks, tokens=_rows(tasks))
        for model in ([given.model] if given.model else MODELS)
        for tasks in ([given.tasks] if given.tasks else TASKS)
    ]
    found = {step: predict(step) for step in steps}
    if given.json:
        print(json.dumps([asdict(own) for own in found[steps[0]]]))
        return
    text = "\n\n".join(
        table(step, classes, measured.get(step.model) if step.tasks == TASKS[0] else None)
        for step, classes in found.items()
    )
    if given.write:
        update_page(given.write, text, BEGIN, END)
    else:
        print(text)


def _rows(tasks: int) -> int:
    """Rows of a batch of `tasks` tasks of 32 at the course's lengths, rounded up as batches are."""
    return round(2816 * tasks / 3 / 64) * 64


if __name__ == "__main__":
    sys.exit(run_command(main))
