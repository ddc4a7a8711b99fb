"""The states of a run that --resume goes on from: the last one and the one before it, safetensors files."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concord.bert.errors import InputError, shown
from concord.bert.tensor_files import (
    DamagedFile,
    TensorFile,
    check_files,
    digests_of_files,
    read_tensors,
    write_tensors,
)
from concord.bert.weights import all_finite
from concord.kernels.files import sync
from concord.train.outputs.names import EARLIER_STATE_FILE, STATE_FILE
from concord.train.steps.optimizer import SurgeryOptimizer


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        steps: optimizer steps done so far.
        seconds: wall time of the whole run.
        training_seconds: wall time of its training steps alone.
        examples: how many it has trained on, repetitions included.
        tokens: how many it has trained on, repetitions included.
        best_score: the highest of what the best model is chosen by: of one dev metric, or of the sum of the tasks' main
            ones.
        best_step: the step at which it was reached.
        best_dev: task -> name of a metric -> its value at that step, None where it is undefined.
        since_best: evaluations after that step, none of which was better.
        best_digest: of the best model's weights, as their file carries it.
        kernels: what its steps are computed by, one of the choices of --kernels; "" where it has none yet.
        products: the library of its fp32 products on a CPU, one of `kernels.products.LIBRARIES`; "" where it has none.
        micro_batches: how many a batch is divided into by --accumulate auto; 1 where it is none of it.
        log_bytes: the length of metrics.jsonl, beyond which a resumed run cuts it off.
    """

    steps: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    best_score: float = float("-inf")
    best_step: int = 0
    best_dev: dict[str, dict[str, float]] = field(default_factory=dict)
    since_best: int = 0
    best_digest: str = ""
    kernels: str = ""
    products: str = ""
    micro_batches: int = 1
    log_bytes: int = 0


@dataclass(frozen=True)
class SavedState:
    """What a run goes on from.

    Attributes:
        path: of the file.
        tensors: the optimizer's, weights included.
        progress: how far the run had come.
        data: name of a set that the run reads -> digest of the arrays it trained on.
        machine: what else its bits depend on, see `train.outputs.provenance.machine`.
        missed: why an earlier state than the last is taken, in words; "" where it is the last.
    """

    path: Path
    tensors: dict[str, Tensor]
    progress: Progress
    data: dict[str, str]
    machine: dict[str, str]
    missed: str = ""


def copy_to_host(optimizer: SurgeryOptimizer, copies: dict[str, Tensor]) -> None:
    """Copy what a state holds into `copies`, by name, so that training may go on while it is written.

    copies: empty at first; the same tensors each time, since new memory costs several times what copying does.
    """
    if not copies:
        copies |= {name: torch.empty_like(like, device="cpu") for name, like in optimizer.saved_like().items()}
    for name, place, values in optimizer.saved_parts():
        copies[name][place] = values.detach()


def write_state(directory: Path, state: SavedState, settings: Mapping[str, str]) -> None:
    """Write the last state, and keep the one that it follows.

    settings: metadata that seals the run's settings, see `seal`. OSError that names the file that cannot be written.
    """
    contents = {"progress": asdict(state.progress), "data": state.data, "machine": state.machine}
    metadata = {name: json.dumps(content) for name, content in contents.items()}
    path = directory / STATE_FILE
    write_tensors(path, state.tensors, {**metadata, **settings}, earlier=directory / EARLIER_STATE_FILE)


def seal(directory: Path, names: Mapping[str, Any]) -> dict[str, str]:
    """The metadata by which a state vouches for the run's settings, the files called `names`."""
    return digests_of_files(directory, sorted(names))


def read_state(directory: Path) -> SavedState:
    """The last state of the run in `directory`, or where that is damaged the one before it.

    Raises InputError where neither is whole, where one is whole but not a run's state, and where the settings in the
    folder are not those that it was written with.
    """
    missed = ""
    for name in (STATE_FILE, EARLIER_STATE_FILE):
        path = directory / name
        if not path.exists():
            missed = missed or f"{path}: missing"
            continue
        try:
            file = read_tensors(path, digest_required=True, of="the state of a run")
        except InputError as error:
            missed = missed or str(error)
            continue
        check_files(directory, file.metadata)
        return _state_of(path, file, missed)
    raise DamagedFile(f"{missed}; there is no whole state before it either")


def keep_alone(directory: Path, state: SavedState) -> None:
    """Where an earlier state is gone on from, put it in the place of the last one, which is damaged: the next state to
    be written would else push out the whole one."""
    if state.missed:
        state.path.replace(directory / STATE_FILE)
        sync(directory)


@torch.no_grad()
def restore(state: SavedState, optimizer: SurgeryOptimizer, data: Mapping[str, str]) -> None:
    """Put a state's tensors back into the optimizer.

    data: the digests of what the resumed run reads. Raises InputError, before anything is changed, where a digest is
    another, and where a tensor is missing or has another shape or dtype, or values that are not finite.
    """
    for name, tensor in optimizer.saved_like().items():
        found = state.tensors.get(name)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            there = "nothing" if found is None else f"{_dtype(found)} {list(found.shape)}"
            raise InputError(f"{state.path}: {name} is {there}, expected {_dtype(tensor)} {list(tensor.shape)}")
        if found.is_floating_point() and not all_finite(found):
            raise InputError(f"{state.path}: {name} has values that are not finite")
    for name, digest in data.items():
        if state.data.get(name) != digest:
            raise InputError(
                f"{state.path}: the {name} examples are not those that the run has read so far, or are tokenised in "
                "another way; expected the same data, or a new run"
            )
    optimizer.load(state.tensors)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _state_of(path: Path, file: TensorFile, missed: str) -> SavedState:
    try:
        contents = {name: json.loads(file.metadata[name]) for name in ("progress", "data", "machine")}
        progress = Progress(**contents["progress"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: no progress recorded in it ({error})") from None
    for name in ("data", "machine"):
        if not _is_texts(contents[name]):
            raise InputError(f"{path}: its {name} is not an object of texts")
    for option in fields(Progress):
        value = getattr(progress, option.name)
        if problem := _problem(option.name, value):
            raise InputError(f"{path}: its progress has {option.name} {shown(value)}, {problem}")
    if progress.best_step > progress.steps:
        raise InputError(f"{path}: its progress has best_step {progress.best_step}, after the {progress.steps} steps")
    return SavedState(path, file.tensors, progress, contents["data"], contents["machine"], missed)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return whole or isinstance(value, float)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _problem(name: str, value: Any) -> str:
    """What a value of `Progress` is expected to be, where it is something else."""
    default = getattr(Progress(), name)
    if isinstance(default, str):
        return "" if isinstance(value, str) else "expected a text"
    if isinstance(default, dict):
        rows = value.values() if isinstance(value, dict) else [None]
        sound = all(isinstance(row, dict) and all(map(_is_number_or_none, row.values())) for row in rows)
        return "" if sound else "expected numbers by task and metric"
    if not _is_number(value) or math.isnan(value):
        return "expected a number"
    if isinstance(default, int) and not isinstance(value, int):
        return "expected a whole number"
    if name != "best_score" and not 0 <= value < math.inf:
        return "expected a finite number of at least 0"
    return ""
