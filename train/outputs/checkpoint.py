"""The state of a run that --resume goes on from: one safetensors file, written beside and renamed into place."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.weights import read_safetensors
from concord.train.outputs.names import STATE_FILE
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
        best_sum: the highest sum of the tasks' main dev metrics.
        best_step: the step at which that sum was reached.
        best_dev: task -> name of a metric -> its value at that step.
        kernels: what its steps are computed by, one of the choices of --kernels; "" where it has none yet.
        products: the library of its fp32 products on a CPU, one of `kernels.products.LIBRARIES`; "" where it has none.
        log_bytes: the length of metrics.jsonl, beyond which a resumed run cuts it off.
    """

    steps: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    best_sum: float = float("-inf")
    best_step: int = 0
    best_dev: dict[str, dict[str, float]] = field(default_factory=dict)
    kernels: str = ""
    products: str = ""
    log_bytes: int = 0


def save_state(directory: Path, optimizer: SurgeryOptimizer, progress: Progress, data: Mapping[str, str]) -> None:
    """Write weights, moments, counters, progress, and of the data that the run reads: name of a set -> digest."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in optimizer.saved().items()}
    metadata = {"progress": json.dumps(asdict(progress)), "data": json.dumps(dict(data))}
    with replacing(directory / STATE_FILE) as beside:
        save_file(tensors, beside, metadata=metadata)


def load_state(directory: Path, optimizer: SurgeryOptimizer, data: Mapping[str, str]) -> Progress:
    """Put back what `save_state` wrote.

    Raises InputError where the file is missing, truncated, or of another model, and where a set's digest is another.
    """
    path = directory / STATE_FILE
    tensors = read_safetensors(path)
    expected = optimizer.saved()
    for name, tensor in expected.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            found = list(tensors[name].shape) if name in tensors else "nothing"
            raise InputError(f"{path}: {name} is {found}, expected {list(tensor.shape)}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            progress = Progress(**json.loads(metadata["progress"]))
            read = json.loads(metadata["data"])
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: no progress recorded in it ({error})") from None
    for name, digest in data.items():
        if read.get(name) != digest:
            raise InputError(
                f"{path}: the {name} examples are not those that the run has read so far, or are tokenised in another "
                "way; expected the same data, or a new run"
            )
    optimizer.load(tensors)
    return progress
