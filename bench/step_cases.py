"""What the training step is measured at, and who trains: models, lengths and batches; Concord and its peers.

Weights are random: what a step takes does not depend on them. `tests/bench/test_peers.py` proves that each peer
computes Concord's update, `tests/bench/test_torchjd_peer.py` of those that are TorchJD's, and
`tests/bench/test_compiled_peers.py`, on a GPU, of those that are compiled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle, islice
from typing import Any

import numpy as np
import torch
import transformers

from bench.lengths import splits_of_one_length
from bench.measure import forget_compiled
from bench.peers.faithful import FaithfulTrainer
from bench.peers.padded import PaddedModel, pad
from bench.peers.stock import StockTrainer
from bench.peers.torchjd_trainer import TorchJDTrainer
from bench.step_operations import step_operations
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.multitask import MultitaskModel
from concord.kernels.dispatch import needs_host_lengths
from concord.kernels.products import cpu_multiplies_bf16
from concord.train.data.device_batches import round_tokens
from concord.train.data.sampler import JointSampler, MicroBatch
from concord.train.data.tokenized import TokenizedSplit
from concord.train.settings.config import RunConfig
from concord.train.settings.parts import FineTuningConfig
from concord.train.settings.typed import fine_tuning_config
from concord.train.steps import build
from concord.train.steps.graphs import choose_graphs
from concord.train.steps.loop import Trainer
from concord.train.steps.precision import Precision, choose_precision

MODELS = {
    "MiniLM": BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    "BERT-base": BertConfig(),
    "BERT-large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
PARITY = (
    "tests/bench/test_peers.py",
    "tests/bert/test_task_gradients.py",
    "tests/train/test_optimizer.py",
    "tests/train/test_resting.py",
    "tests/train/test_graphs.py",
)
TORCHJD_PARITY = "tests/bench/test_torchjd_peer.py"
COMPILED_PARITY = "tests/bench/test_compiled_peers.py"
AMP = "auto" if torch.cuda.is_available() else "off"
"""The number format, as --amp has it, where a benchmark measures one alone."""
AMPS_OF_CPU = ("off", "bf16") if cpu_multiplies_bf16() else ("off",)
"""The number formats of a CPU's benchmarks: bf16 where it multiplies that in hardware."""
BUCKET = 32  # padding's multiple where graphs are compiled for each length
_EPOCHS = 1000  # more than are measured
_EXAMPLES = 1024  # of each task, where all are of one length

Splits = Mapping[str, TokenizedSplit]


@dataclass(frozen=True)
class Case:
    """A model, the tokens of every sequence (None: the lengths of the data), and the examples a task in a step."""

    model: str
    length: int | None = None
    batch: int = 32

    def __str__(self) -> str:
        return f"{self.model}-{self.length or 'data'}-{self.batch}"

    def described(self, lengths: str, dtype: str, tasks: int = 3) -> dict[str, Any]:
        """The case of a row of results; lengths: what the data's are called."""
        return {
            "model": self.model,
            "lengths": self.length or lengths,
            "tasks": tasks,
            "batch": self.batch,
            "dtype": dtype,
        }


@dataclass(frozen=True)
class Peer:
    """make: its trainer, from a padded model; attention: of transformers; multiple: what lengths are padded to."""

    make: Callable[..., Any]
    attention: str = "sdpa"
    multiple: int = 1


@dataclass(frozen=True)
class Step:
    """One contestant, ready to train.

    run: does one step, on the next examples; tokens: of a step on average, computed: with padding;
    operations: of the matrix products that a step needs, on average; optimizer: torch's, of a peer.
    """

    run: Callable[[], object]
    tokens: float
    computed: float
    operations: float
    optimizer: torch.optim.Optimizer | None = None


# In the order of their value, since a run may be cut off.
FIRST_CASES = [
    Case("BERT-base"),
    Case("MiniLM"),
    Case("BERT-base", 512),
    Case("BERT-base", 128),
]
CASES = [
    *FIRST_CASES,
    Case("BERT-large"),
    Case("MiniLM", 128),
    Case("MiniLM", 512),
    Case("BERT-large", 128),
    Case("BERT-large", 512),
]
SMALL = Case("MiniLM", 128, batch=8)

CONCORD = {"concord": "pcgrad", "concord, plain sum": "none"}  # name -> surgery
PEERS = {
    "faithful": Peer(FaithfulTrainer, attention="eager"),
    "best of stock": Peer(StockTrainer),
    "plain sum": Peer(partial(StockTrainer, surgery=False)),
}
TORCHJD = {
    "TorchJD, Jacobian": Peer(partial(TorchJDTrainer, gramian=False)),
    "TorchJD, Gramian": Peer(partial(TorchJDTrainer, gramian=True)),
}
COMPILED = {
    "best of stock, compiled": Peer(partial(StockTrainer, compile_mode="default"), multiple=BUCKET),
    "best of stock, CUDA graphs": Peer(partial(StockTrainer, compile_mode="reduce-overhead"), multiple=BUCKET),
}


def contests() -> list[tuple[Case, str]]:
    """Each case with each of its contestants, in the order to measure them in.

    The first cases come first; after them those of their contestants that compile for a minute; then the other cases.
    """
    found = []
    for cases in (FIRST_CASES, CASES[len(FIRST_CASES) :]):
        of_the_data = [case for case in cases if case.length is None]
        found += [
            (case, name) for case in cases for name in (*CONCORD, *PEERS, *(TORCHJD if case in of_the_data else ()))
        ]
        found += [(case, name) for case in of_the_data for name in COMPILED]
    return found


def parity_of(name: str) -> tuple[str, ...]:
    """The test modules on which a ratio to the contestant called `name` rests."""
    if name in TORCHJD:
        return (*PARITY, TORCHJD_PARITY)
    return (*PARITY, COMPILED_PARITY) if name in COMPILED else PARITY


def splits_of(case: Case, data: Splits) -> Splits:
    """What is trained on: `data`, or random examples of the case's length."""
    return data if case.length is None else splits_of_one_length(case.length, _EXAMPLES)


def concord_config(
    tasks: Sequence[str], batch: int, *, surgery: str, cuda_graphs: str = "auto", amp: str = AMP
) -> FineTuningConfig:
    """The configuration of Concord's steps on these tasks: the defaults, but for what is measured; batch: a task's."""
    flat = RunConfig(
        tasks=tuple(tasks), batch_size=batch, amp=amp, surgery=surgery, epochs=_EPOCHS, cuda_graphs=cuda_graphs
    )
    return fine_tuning_config(flat)


def build_concord(
    case: Case, splits: Splits, surgery: str = "none", cuda_graphs: str = "auto", amp: str = AMP
) -> tuple[FineTuningConfig, MultitaskModel, Precision]:
    """Concord's model with a head for each task, and the configuration it is built by."""
    config = concord_config(tuple(splits), case.batch, surgery=surgery, cuda_graphs=cuda_graphs, amp=amp)
    precision = choose_precision(config.compute.device, config.compute.amp)
    encoder = Encoder(MODELS[case.model])
    encoder.initialise(config.model.seed)
    config = build.fit_model(config, encoder.config)
    return config, build.build_model(config, [split.task for split in splits.values()], encoder, precision), precision


def build_trainer(case: Case, splits: Splits, surgery: str, *, cuda_graphs: str = "auto", amp: str = AMP) -> Trainer:
    """Concord's trainer of that model; cuda_graphs: as the flag of the same name. InputError where that cannot be."""
    config, model, precision = build_concord(case, splits, surgery, cuda_graphs, amp)
    optimizer = build.build_optimizer(config, model, precision)
    graphs, _ = choose_graphs(config, precision.device)
    return build.build_trainer(config, model, optimizer, splits, precision.device, graphs=graphs)


def build_padded(case: Case, splits: Splits, attention: str, device: torch.device) -> PaddedModel:
    """The peers' model with a head for each task, in fp32."""
    torch.manual_seed(1)
    outputs = {name: split.task.classes for name, split in splits.items()}
    kinds = {name: split.task.kind for name, split in splits.items()}
    configuration = transformers.BertConfig.from_dict(MODELS[case.model].as_json())
    with device:
        return PaddedModel(configuration, outputs, kinds, attention=attention)


def build_step(
    case: Case, name: str, splits: Splits, device: torch.device, *, rounds: int, warm_up: int, amp: str = AMP
) -> Step:
    """The contestant called `name`, with the same examples for all: of `warm_up` steps, and of the `rounds` that count.

    amp: the number format it trains in, as the flag of that name has it.
    """
    batches = list(islice(_micro_batches(splits, case.batch), warm_up + rounds))
    lengths = [_lengths(splits, batch) for batch in batches[warm_up:]]
    counts = [int(each.sum()) for each in lengths]
    tokens = float(np.mean(counts))
    operations = float(np.mean([step_operations(MODELS[case.model], each) for each in lengths]))
    forget_compiled()  # of the contestants before
    if name in CONCORD:
        trainer = build_trainer(case, splits, CONCORD[name], amp=amp)
        results = (result for epoch in count() for result in trainer.epoch(epoch))
        # Steps on the device's own batches have sizes of which there are few.
        on_device = not needs_host_lengths(trainer.device)
        computed = float(np.mean([round_tokens(count) for count in counts])) if on_device else tokens
        return Step(lambda: next(results), tokens, computed, operations)
    peer = (PEERS | TORCHJD | COMPILED)[name]
    model = build_padded(case, splits, peer.attention, device)
    dtype = step_precision(amp).compute_dtype
    peer_trainer = peer.make(model, learning_rate=5e-5, amp=None if dtype == torch.float32 else dtype)
    padded = [
        {task: pad(split, batch[task], device, peer.multiple) for task, split in splits.items()} for batch in batches
    ]
    computed = float(np.mean([sum(part.ids.numel() for part in batch.values()) for batch in padded[warm_up:]]))
    remaining = cycle(padded)
    return Step(lambda: peer_trainer.step(next(remaining)), tokens, computed, operations, peer_trainer.optimizer)


def step_precision(amp: str = AMP) -> Precision:
    """What the contestants compute in, and where."""
    return choose_precision("auto", amp)


def _micro_batches(splits: Splits, batch_size: int) -> Iterator[MicroBatch]:
    """The examples of each step, as Concord's trainer samples them."""
    sizes = {task: len(split) for task, split in splits.items()}
    sampler = JointSampler(sizes, batch_size=batch_size, accumulate=1, seed=1)
    return (batches[0] for epoch in count() for batches in sampler.epoch(epoch))


def _lengths(splits: Splits, batch: MicroBatch) -> np.ndarray:
    """The tokens of each of a batch's sequences, without padding."""
    own = [np.diff(split.cu_seqlens)[split.sequences_of(batch[task])] for task, split in splits.items()]
    return np.concatenate(own)
