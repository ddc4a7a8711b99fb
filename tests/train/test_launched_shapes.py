"""What a run launches is what its self-check judges: every kernel, at the same constants and dtypes."""

import inspect
from contextlib import contextmanager

import pytest
import torch

from concord.kernels.checks.cases import cases_of
from concord.kernels.checks.shapes import ops_of
from concord.kernels.dispatch import using_kernels
from concord.train import pretrain, run
from concord.train.command import run_command
from concord.train.runs import session
from tests.kernels.parity import INTERPRETED
from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, command

pytestmark = [
    pytest.mark.unwatched,
    pytest.mark.usefixtures("without_pictures"),
    pytest.mark.skipif(not INTERPRETED, reason="launches are recorded in the interpreter"),
]
WORDS = ["the", "was", "where", "is", "i", "saw", *ADJECTIVES, *THINGS]


@contextmanager
def recorded(monkeypatch):
    """The kernels launched in this context: name, constants and dtypes of arguments."""
    from triton.runtime.interpreter import GridExecutor

    launch, found = GridExecutor.__call__, set()

    def record(executor, *arguments, **options):
        known = {name: value for name, value in options.items() if name in executor.arg_names}
        bound = inspect.getcallargs(executor.fn, *arguments, **known)
        constants = tuple((name, str(bound[name])) for name in bound if name in executor.constexprs)
        dtypes = tuple(str(getattr(value, "dtype", "")) for value in bound.values())
        found.add((f"{executor.fn.__module__}.{executor.fn.__name__}", constants, dtypes))
        return launch(executor, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(GridExecutor, "__call__", record)
        yield found


def shapes_given(monkeypatch):
    """Filled with the shapes that a command hands to its self-check."""
    resolve, given = session.resolve_kernels, []

    def spy(kernels, self_check, precision, shapes, reporter):
        given.append(shapes())
        return resolve(kernels, "off", precision, shapes, reporter)

    monkeypatch.setattr(session, "resolve_kernels", spy)
    return given


def judged(shapes, monkeypatch):
    """What the cases of those shapes launch."""
    with recorded(monkeypatch) as found, using_kernels("triton"):
        for op in ops_of(shapes):
            for case in cases_of(op, shapes, torch.device("cpu")):
                case.compute(case.dtype)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--amp", "fp16", "--accumulate", "2", "--pair-encoding", "separate", "--surgery", "gradvac"),
        ("--pooling", "mean", "--granularity", "layer", "--tasks", "sst"),
        ("--smart", "sts=1", "--pals", "12", "--shared-layer", "sst,sts", "--tasks", "sst,sts", "--batch-size", "1"),
    ],
    ids=["default", "accumulated", "one task", "smart"],
)
def test_a_run_launches_nothing_that_was_not_judged(data, tmp_path, monkeypatch, more):
    given = shapes_given(monkeypatch)
    model = write_small_model(tmp_path / "model", WORDS)
    own = ("--model", str(model), "--max-steps", "1", "--batch-size", "2", "--dev-examples", "1", "--skip-test")
    with recorded(monkeypatch) as launched:
        assert run_command(run.main, [*command(data, tmp_path / "run", *own), "--kernels", "triton", *more]) == 0
    assert len(launched) > 20
    missing = launched - judged(given[0], monkeypatch)
    assert not missing, "\n".join(map(str, sorted(missing)))


def test_a_task_that_is_read_more_often_has_more_sequences_in_what_is_judged(data, tmp_path, monkeypatch):
    given = shapes_given(monkeypatch)
    flags = ("--max-steps", "1", "--skip-test", "--kernels", "torch")
    for out, more in (("plain", ()), ("weighted", ("--sampling-weights", "sts=2"))):
        assert run_command(run.main, [*command(data, tmp_path / out, *flags), *more]) == 0
    plain, weighted = given
    assert (plain.sequences, weighted.sequences) == (3 * 4, 4 * 4)
    assert weighted.tokens >= plain.tokens


@pytest.mark.slow
def test_a_pre_training_launches_nothing_that_was_not_judged(tmp_path, monkeypatch):
    given = shapes_given(monkeypatch)
    model, texts = write_small_model(tmp_path / "model", WORDS), tmp_path / "texts.txt"
    texts.write_text("".join(f"the {thing} was {word} .\n" for thing in THINGS for word in ADJECTIVES))
    flags = ("--data", texts, "--model", model, "--out", tmp_path / "run", "--max-steps", "1", "--batch-size", "3")
    more = ("--accumulate", "2", "--device", "cpu", "--kernels", "triton")
    with recorded(monkeypatch) as launched:
        assert run_command(pretrain.main, [str(flag) for flag in (*flags, *more)]) == 0
    missing = launched - judged(given[0], monkeypatch)
    assert not missing, "\n".join(map(str, sorted(missing)))
