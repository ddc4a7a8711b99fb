"""The configuration of a run: one validated dataclass, from which the command line is made."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from bert.errors import InputError, did_you_mean
from kernels.dispatch import CHOICES as KERNEL_CHOICES

OWN_RULES = ("none", "pcgrad", "gradvac")
LIBRARY_RULES = ("upgrad", "dualproj", "mgda", "cagrad", "alignedmtl", "imtlg", "fairgrad", "nashmtl", "pcd")
AMP_CHOICES = ("off", "auto", "bf16", "fp16")


def _option(default: Any, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **more})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a training run. Each field is the flag of the same name, with dashes for underscores."""

    data: str = _option("demo", "directory in the course layout, or demo for the generated data set")
    tasks: tuple[str, ...] = _option(("sst", "paraphrase", "sts"), "tasks to train on, separated by commas")
    model: str = _option("minilm", "minilm, tiny (random weights), a model directory, or owner/name on the hub")
    surgery: str = _option(
        "none", "what repairs conflicts between the tasks' gradients", choices=(*OWN_RULES, *LIBRARY_RULES)
    )
    granularity: str = _option(
        "model", "what has surgery of its own: the model, each layer, each matrix", choices=("model", "layer", "matrix")
    )
    surgery_scope: str = _option(
        "shared",
        "what dot products span: shared parameters, or all, heads too, which then are scaled as well",
        choices=("shared", "all"),
    )
    reduction: str = _option("sum", "what is taken of the projected gradients", choices=("sum", "mean"))
    gradvac_beta: float = _option(0.01, "how fast GradVac's targets follow the cosines", low=0.0)
    amp: str = _option(
        "off", "mixed precision; the bare flag means auto: bf16 where the device has it, else fp16", choices=AMP_CHOICES
    )
    kernels: str = _option(
        "auto",
        "what computes: auto takes Triton for CUDA and torch otherwise; triton on a CPU needs TRITON_INTERPRET=1",
        choices=KERNEL_CHOICES,
    )
    cuda_graphs: str = _option(
        "auto",
        "replay each step as one CUDA graph: the same numbers, sooner; auto does so where it can",
        choices=("auto", "on", "off"),
    )
    device: str = _option("auto", "auto takes CUDA where there is one", choices=("auto", "cpu", "cuda"))
    epochs: int = _option(3, "passes over the largest training set", low=1)
    max_steps: int = _option(0, "stop after this many steps; 0 for no limit", low=0)
    batch_size: int = _option(32, "examples a task in a micro-batch", low=1)
    accumulate: int = _option(1, "micro-batches a step; surgery is done once, on their accumulated gradients", low=1)
    pair_encoding: str = _option(
        "joint", "a pair as one sequence, or as two compared by the head", choices=("joint", "separate")
    )
    learning_rate: float = _option(
        -1.0, "peak rate of the encoder; -1 for one that suits its width: 2e-4 at 384, 5e-5 at 768", low=-1.0
    )
    head_learning_rate: float = _option(1e-3, "peak rate of the heads", low=0.0)
    warmup: float = _option(0.1, "share of the steps in which the rates rise linearly, before they fall to 0", low=0.0)
    weight_decay: float = _option(0.01, "decoupled decay of matrices", low=0.0)
    clip: float = _option(1.0, "global norm that the merged gradient is clipped to; 0 for no clipping", low=0.0)
    average: float = _option(
        0.1, "share of the run's steps over which the weights that are evaluated are averaged; 0 for none", low=0.0
    )
    hidden_dropout: float = _option(-1.0, "rate on the encoder's hidden states; -1 for the model's own", low=-1.0)
    attention_dropout: float = _option(-1.0, "rate on attention's probabilities; -1 for the model's own", low=-1.0)
    head_dropout: float = _option(0.3, "rate on the heads' features", low=0.0)
    max_length: int = _option(512, "wordpieces after which a sequence is cut", low=8)
    seed: int = _option(1, "of weights, batches, dropout and surgery's orders", low=0)
    log_every: int = _option(20, "steps between two logged ones", low=1)
    evaluate_every: int = _option(
        300, "steps between two evaluations within an epoch, 0 for none; each epoch ends with one", low=0
    )
    save_every: int = _option(
        500, "steps between two states that --resume can start from; each epoch ends with one", low=1
    )
    skip_bad_rows: bool = _option(False, "skip rows of the data that cannot be used, instead of stopping")

    def __post_init__(self) -> None:
        for option in fields(self):
            value, flag = getattr(self, option.name), _flag(option.name)
            choices, low = option.metadata.get("choices"), option.metadata.get("low")
            if choices and value not in choices:
                raise InputError(f"{flag} {value}: {did_you_mean(str(value), choices)}")
            if low is not None and not value >= low:
                raise InputError(f"{flag} {value}: expected at least {low}")
        for name in ("hidden_dropout", "attention_dropout", "head_dropout", "warmup", "average", "gradvac_beta"):
            if not getattr(self, name) < 1:
                raise InputError(f"{_flag(name)} {getattr(self, name)}: expected less than 1")
        if self.surgery_scope == "all" and self.granularity != "model":
            raise InputError(
                f"--surgery-scope all: its dot products are the whole model's, not those of --granularity "
                f"{self.granularity}"
            )
        if not self.tasks:
            raise InputError("--tasks: expected at least one task")

    def write(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "RunConfig":
        """The configuration that `write` wrote; InputError where the file is missing or holds something else."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["tasks"] = tuple(content["tasks"])
            return cls(**content)
        except OSError:
            raise InputError(f"{path.parent}: not the folder of a run, expected {path.name} in it") from None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}: not the configuration of a run ({error})") from None


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are InputErrors of one line, with the nearest flag where one is unknown."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong."""
        raise InputError(f"{message} (see --help)")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse the command line, or `arguments`."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            raise InputError(f"unknown argument {unknown[0]}: {did_you_mean(unknown[0].split('=')[0], flags)}")
        return known


def build_parser() -> OneLineParser:
    """The command line of `python -m train.run`: a flag for each setting, and where the run goes.

    Flags that are not given are absent from the result, so that a resumed run can tell them from the defaults.
    """
    parser = OneLineParser(
        prog="python -m train.run",
        description="Fine-tune one BERT on several tasks at once, with gradient surgery.",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.MetavarTypeHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=str, help="folder of the run (default runs/<time>-<name>)")
    parser.add_argument("--resume", type=str, help="go on with the stopped run in this folder")
    for option in fields(RunConfig):
        parser.add_argument(_flag(option.name), **_argument(option))
    return parser


def config_from(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the parsed flags describe; InputError where a value is not allowed."""
    return RunConfig(**_given(arguments))


def check_resumable(config: RunConfig, arguments: argparse.Namespace, directory: Path) -> None:
    """Raise InputError where a flag contradicts the configuration of the run that is to go on."""
    for name, value in _given(arguments).items():
        kept = getattr(config, name)
        if value != kept:
            raise InputError(f"{_flag(name)} {_shown(value)}: the run in {directory} has {_shown(kept)}")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    names = {option.name for option in fields(RunConfig)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _argument(option: Any) -> dict[str, Any]:
    """The arguments of argparse's add_argument for one field."""
    text = option.metadata["help"]
    if option.type is bool:
        return {"action": "store_true", "help": text}
    choices = option.metadata.get("choices")
    listed = f": {', '.join(choices)}" if choices else ""
    argument = {"help": f"{text}{listed} (default {_shown(option.default)})", "type": option.type}
    if option.name == "tasks":
        argument["type"] = _names
    if option.name == "amp":
        argument.update(nargs="?", const="auto")
    return argument


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
