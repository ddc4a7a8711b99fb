"""The configuration of a run: one validated dataclass, from which `train.flags` makes the command line."""

import json
import math
from collections.abc import Collection
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError, did_you_mean
from concord.bert.tables import Table, is_own
from concord.kernels.dispatch import CHOICES as KERNEL_CHOICES
from concord.kernels.dropout import HIGHEST_RATE
from concord.train.settings.tables import BATCHINGS, HEADS, LOSSES, PAIR_LOSSES, RULES, SCHEDULES, SOURCES

AMP_CHOICES = ("off", "auto", "bf16", "fp16")


# The setting that each group of them begins with, in the order of the fields.
GROUPS = {
    "recipe": "data and model",
    "pooling": "objectives (task=value is for one task, a value alone for all, with commas between several)",
    "surgery": "surgery",
    "amp": "what computes",
    "epochs": "batches and stages",
    "learning_rate": "optimisation",
    "seed": "the run",
}
STAGES = ("all", "heads")
_HIGHEST_SEED = 2**64 - 1  # that torch's generators take
_PER_TASK = ("heads", "losses", "loss_weights", "smart", "pair_encoding", "head_learning_rate")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def setting_text(value: Any) -> str:
    """A setting's value as the command line takes it."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _option(default: Any, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **more})


def _of_tables(default: Any, help_text: str, *tables: Table, also: tuple[str, ...] = ()) -> Any:
    """A setting that names members of these families, or code of the user's own; also: names that are none of them."""
    names = (*also, *(name for table in tables for name in table.names))
    kind = "each" if isinstance(default, tuple) else "choices"
    return _option(default, help_text, **{kind: names, "tables": tables, "also": also})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a training run. Each field is the flag of the same name, with dashes for underscores."""

    recipe: str = _option("", "a named system, PAPER/SYSTEM, whose settings stand for the defaults (see --recipes)")
    data: str = _option(
        "demo",
        "directory in the course layout, demo for the generated data set, or module:function of your own",
        tables=(SOURCES,),
    )
    tasks: tuple[str, ...] = _option(("sst", "paraphrase", "sts"), "tasks to train on, separated by commas")
    model: str = _option("minilm", "minilm, tiny (random weights), a model directory, or owner/name on the hub")

    pooling: str = _option(
        "cls", "what stands for a sequence: the pooled first token, or the mean of all", choices=("cls", "mean")
    )
    heads: tuple[str, ...] = _of_tables(("linear",), "each task's head, such as linear,sts=cosine", HEADS)
    shared_layer: tuple[str, ...] = _option(
        (), "tasks whose heads read the pooled output through one layer that they share"
    )
    pair_features: str = _option(
        "difference",
        "what a head reads of two sequences: both and their difference, their product too, or both alone",
        choices=("difference", "product", "concatenation"),
    )
    losses: tuple[str, ...] = _of_tables(
        ("auto",),
        "each task's loss, such as sts=huber+mnrl-label; auto is cross-entropy, binary-cross-entropy or mse",
        LOSSES,
        PAIR_LOSSES,
        also=("auto",),
    )
    margin: float = _option(0.0, "cosine that pairs without similarity may have in the cosine-embedding loss", low=-1.0)
    loss_weights: tuple[str, ...] = _option(
        ("1",), "numbers such as sst=1,sts=0.5, or inverse-share (of the examples), or uncertainty (learned)"
    )
    threshold: str = _option(
        "0.5",
        "score above which a binary task's answer is 1; dev for the one that is best on the dev set at each evaluation",
        choices=("0.5", "dev"),
    )
    smart: tuple[str, ...] = _option(
        ("0",),
        "weight of the smoothness under adversarial noise on the embeddings (SMART), such as sst=1; not in stages of "
        "the heads alone",
    )
    pals: int = _option(0, "size of the projected attention layers of each task; 0 for none", low=0)

    surgery: str = _of_tables("none", "what repairs conflicts between the tasks' gradients", RULES)
    granularity: str = _option(
        "model", "what has surgery of its own: the model, each layer, each matrix", choices=("model", "layer", "matrix")
    )
    surgery_scope: str = _option(
        "shared",
        "what dot products span: shared parameters, or all, heads too, which then are scaled as well",
        choices=("shared", "all"),
    )
    reduction: str = _option(
        "sum",
        "what is taken of the projected gradients, or with surgery none of the tasks' own; TorchJD's rules have a "
        "scale of their own, a mean's",
        choices=("sum", "mean"),
    )
    gradvac_beta: float = _option(0.01, "how fast GradVac's targets follow the cosines", low=0.0)

    amp: str = _option(
        "off",
        "mixed precision; the bare flag means auto: bf16 where the device multiplies it, fp16 on other GPUs, else none",
        choices=AMP_CHOICES,
    )
    kernels: str = _option(
        "auto",
        "what computes: auto takes Triton for CUDA and torch otherwise; triton on a CPU needs TRITON_INTERPRET=1",
        choices=KERNEL_CHOICES,
    )
    self_check: str = _option(
        "auto",
        "judge the kernels on the device before the first step, and take from torch what fails; once for a device and "
        "its software: auto on CUDA, on also where they are interpreted",
        choices=("auto", "on", "off"),
    )
    cuda_graphs: str = _option(
        "auto",
        "replay each step as one CUDA graph: the same numbers, sooner; auto does so where it can",
        choices=("auto", "on", "off"),
    )
    device: str = _option("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))

    epochs: int = _option(3, "passes over the data, as batching and until define them", low=1)
    max_steps: int = _option(0, "stop after this many steps; 0 for no limit", low=0)
    batch_size: int = _option(32, "examples a task in a micro-batch", low=1)
    accumulate: int = _option(1, "micro-batches a step; surgery is done once, on their accumulated gradients", low=1)
    batching: str = _of_tables("joint", "which tasks a step holds", BATCHINGS)
    until: str = _option(
        "largest", "the set whose end ends an epoch; smaller ones begin anew", choices=("largest", "smallest")
    )
    steps_per_epoch: int = _option(0, "steps that make an epoch, whatever the sets' sizes; 0 for a whole set", low=0)
    stages: tuple[str, ...] = _option(
        ("all",), "what is trained, epoch by epoch, such as heads:5,all:20,heads:5 (heads alone: the encoder is frozen)"
    )
    pair_encoding: tuple[str, ...] = _option(
        ("joint",),
        "a pair as one sequence, or as two that the head compares, such as joint,sts=separate",
        each=("joint", "separate"),
    )

    learning_rate: float = _option(
        -1.0, "peak rate of the encoder; -1 for one that suits its width: 2e-4 at 384, 5e-5 at 768", low=0.0, auto=-1.0
    )
    head_learning_rate: tuple[str, ...] = _option(("1e-3",), "peak rate of the heads, such as 1e-3,sst=5e-4")
    layer_decay: float = _option(
        1.0,
        "what the encoder's rate is multiplied by from each layer to the one below; 1 for one rate",
        low=0.0,
        high=1.0,
    )
    schedule: str = _of_tables("linear", "the rates' factor after the warm-up", SCHEDULES)
    milestones: tuple[str, ...] = _option((), "epochs after which the rates fall, such as 5,25")
    decay: float = _option(0.7, "what the rates are multiplied by at a milestone", low=0.0)
    warmup: float = _option(0.1, "share of the steps in which the rates rise linearly", low=0.0)
    weight_decay: float = _option(0.01, "decoupled decay of matrices", low=0.0)
    clip: float = _option(1.0, "global norm that the merged gradient is clipped to; 0 for no clipping", low=0.0)
    average: float = _option(
        0.1, "share of the run's steps over which the weights that are evaluated are averaged; 0 for none", low=0.0
    )
    hidden_dropout: float = _option(
        -1.0, "rate on the encoder's hidden states; -1 for the model's own", low=0.0, auto=-1.0
    )
    attention_dropout: float = _option(
        -1.0, "rate on attention's probabilities; -1 for the model's own", low=0.0, auto=-1.0
    )
    head_dropout: float = _option(0.3, "rate on the heads' features", low=0.0)
    max_length: int = _option(512, "wordpieces after which a sequence is cut", low=8)

    seed: int = _option(1, "of weights, batches, dropout and surgery's orders", low=0, high=_HIGHEST_SEED)
    log_every: int = _option(20, "steps between two logged ones", low=1)
    evaluate_every: int = _option(
        300, "steps between two evaluations within an epoch, 0 for none; each epoch ends with one", low=0
    )
    dev_examples: int = _option(0, "evaluate on so many dev examples of each task, evenly spaced; 0 for all", low=0)
    mistakes: int = _option(20, "worst mistakes of the best model that are listed for each task", low=0)
    skip_test: bool = _option(False, "do not answer the test sets at the end")
    save_every: int = _option(
        500, "steps between two states that --resume can start from; each epoch ends with one", low=1
    )
    skip_bad_rows: bool = _option(False, "skip rows of the data that cannot be used, instead of stopping")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, flag = getattr(self, option.name), flag_of(option.name)
            if not _is_of_type(value, option):
                raise InputError(f"{flag} {value!r}: expected {_WORDS.get(option.type, 'a list of texts')}")
            if "choices" in option.metadata:
                _check_choice(f"{flag} {value}", str(value), option.metadata["choices"], option)
            for item in value if "each" in option.metadata else ():
                whole = item.rpartition("=")[2]
                for part in whole.split("+") if option.name == "losses" else [whole]:
                    _check_choice(f"{flag} {item}", part, option.metadata["each"], option)
            _check_bounds(flag, value, option)
        for name in ("hidden_dropout", "attention_dropout", "head_dropout", "warmup", "average", "gradvac_beta"):
            if not getattr(self, name) < 1:
                raise InputError(f"{flag_of(name)} {getattr(self, name)}: expected less than 1")
            if name.endswith("dropout") and getattr(self, name) > HIGHEST_RATE:
                raise InputError(f"{flag_of(name)} {getattr(self, name)}: expected less than 1, by 2^-16 at least")
        if self.surgery_scope == "all" and self.granularity != "model":
            raise InputError(
                f"--surgery-scope all: its dot products are the whole model's, not those of --granularity "
                f"{self.granularity}"
            )
        if not self.tasks:
            raise InputError("--tasks: expected at least one task")
        for name in _PER_TASK:
            self._check_per_task(name)
        self._check_decay()
        self._check_milestones()
        self._check_stages()

    def _check_per_task(self, name: str) -> None:
        items, flag = getattr(self, name), flag_of(name)
        # A value for all tasks has no owner.
        owners = [item.rpartition("=")[0] for item in items]
        for owner, item in zip(owners, items, strict=True):
            if "=" in item and owner not in self.tasks:
                raise InputError(f"{flag} {item}: {did_you_mean(owner, self.tasks)}")
        if len(set(owners)) < len(owners):
            first, second = (item.rpartition("=")[2] for item in items[:2])
            raise InputError(
                f"{flag} {','.join(items)}: expected one value for all and task=value for some, each once, such as "
                f"{first},{self.tasks[0]}={second}"
            )

    def _check_decay(self) -> None:
        """A step shrinks a weight by its rate times the decay, and cannot take more of it than there is."""
        rates = [self.number_for_task("head_learning_rate", task) for task in self.tasks]
        if (rate := max(self.learning_rate, *rates)) * self.weight_decay >= 1:
            raise InputError(
                f"--weight-decay {self.weight_decay}: expected less than {1 / rate:g} with the rate of {rate:g}"
            )

    def _check_milestones(self) -> None:
        for item in self.milestones:
            if not item.isdecimal():
                raise InputError(f"--milestones {item}: expected epochs, such as 5,25")
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise InputError("--milestones and --schedule milestones need each other")

    def _check_stages(self) -> None:
        if not self.stages:
            raise InputError("--stages: expected at least one")
        for item in self.stages:
            what, _, count = item.partition(":")
            if what not in STAGES:
                raise InputError(f"--stages {item}: expected {' or '.join(STAGES)}")
            if (count or len(self.stages) > 1) and not (count.isdecimal() and int(count)):
                raise InputError(f"--stages {item}: expected a number of epochs, such as {what}:5")
        if self.pals and any(item.startswith("heads") for item in self.stages):
            raise InputError("--pals: they are trained with the encoder, not in stages of the heads alone")
        if not self.trains_encoder and any(self.number_for_task("smart", task) for task in self.tasks):
            raise InputError(
                f"--smart {','.join(self.smart)}: it smooths the encoder, which --stages {','.join(self.stages)} "
                "never trains"
            )
        total = sum(int(item.partition(":")[2] or self.epochs) for item in self.stages)
        if total != self.epochs:
            raise InputError(f"--stages {','.join(self.stages)}: {total} epochs, but --epochs {self.epochs}")

    @property
    def trains_encoder(self) -> bool:
        """Whether any stage trains more than the heads."""
        return any(item.startswith("all") for item in self.stages)

    @property
    def milestone_epochs(self) -> list[int]:
        """The epochs after which the rates fall."""
        return [int(item) for item in self.milestones]

    def stage_of(self, epoch: int) -> str:
        """What `epoch` (from 0) trains: all, or heads alone."""
        last = 0
        for item in self.stages:
            what, _, count = item.partition(":")
            last += int(count or self.epochs)
            if epoch < last:
                return what
        raise ValueError(f"epoch {epoch} of {last}")

    def for_task(self, name: str, task: str) -> str:
        """What the setting `name`, one a task such as heads, is for `task`: its own value, else the one for all."""
        items = getattr(self, name)
        own = [item.partition("=")[2] for item in items if item.startswith(f"{task}=")]
        for_all = [item for item in items if "=" not in item]
        return (own or for_all or getattr(RunConfig, name))[0]

    def number_for_task(self, name: str, task: str, others: Collection[str] = ()) -> float:
        """The same as a number; InputError where it is none, or negative. others: names that may stand for it."""
        value = self.for_task(name, task)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf"):
            named = "".join(f", or {other}" for other in others)
            raise InputError(f"{flag_of(name)} {value}: expected a number of at least 0{named}")
        return number

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(
        cls, path: Path, names: Collection[str] | None = None, *, content_is: str = "configuration", of: str = "a run"
    ) -> "RunConfig":
        """The configuration that `write` wrote, or one of which the file holds the settings `names` alone.

        content_is, of: what the file is for whom, in the InputError that is raised where it is missing or holds
        something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.keys() != (set(names) if names is not None else {option.name for option in fields(cls)}):
                raise ValueError("its settings are those of another version")
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in content.items()})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError:
            raise InputError(f"{path.parent}: not the folder of {of}, expected {path.name} in it") from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: not the {content_is} of {of} ({error})") from None


def _check_choice(where: str, name: str, choices: Collection[str], option: Field) -> None:
    """InputError that begins with `where` for a name that is none of the choices nor of code of the user's own."""
    if name in choices or ("tables" in option.metadata and is_own(name)):
        return
    if "tables" in option.metadata and ":" in name:
        raise InputError(
            f"{where}: expected module:function of your own, as Python spells them, or {did_you_mean(name, choices)}"
        )
    raise InputError(f"{where}: {did_you_mean(name, choices)}")


def _check_bounds(flag: str, value: Any, option: Field) -> None:
    low, high, auto = (option.metadata.get(name) for name in ("low", "high", "auto"))
    if auto is not None and value == auto:
        return
    if (low is not None and not value >= low) or (high is not None and value > high):
        expected = f"at least {low}" if high is None else f"a number from {low} to {high}"
        raise InputError(f"{flag} {value}: expected {expected}{'' if auto is None else f', or {auto:g}'}")


def _is_of_type(value: object, option: Field) -> bool:
    """Whether a value, which may come from a file, is of its setting's type. A whole number is a number too."""
    if isinstance(option.default, tuple):
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if option.type is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, option.type) and (option.type is bool or not isinstance(value, bool))
