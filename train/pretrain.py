"""Pre-train further: python -m train.pretrain --data FILE_OR_DIR [--model minilm] [--out DIR] [--resume DIR] ...

A masked language model learns from raw text; what it leaves in --out is a model that train.run --model DIR starts from.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.models import Model
from concord.bert.weights import WEIGHTS_FILE, read_safetensors
from concord.train.checks.self_check import resolve_kernels
from concord.train.checks.shapes import shapes_of_pretraining
from concord.train.command import run_command, stop_on_signal
from concord.train.data.texts import encode_texts, read_texts
from concord.train.flags import OneLineParser, argument_of, check_resumable, new_folder, resumed_folder, settings_parser
from concord.train.outputs.checkpoint import STATE_FILE, Progress, load_state, save_state
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.progress import RunConsole, say
from concord.train.outputs.report import METRICS_FILE, SUMMARY_FILE, MetricsLog, commit, versions
from concord.train.settings.config import RunConfig, flag_of
from concord.train.steps.build import CONFIG_FILE, fit_model, load_pretrained
from concord.train.steps.precision import Precision, choose_kernels, choose_precision
from concord.train.steps.pretraining import Pretrainer, PretrainingStep

SETTINGS_FILE = "pretrain.json"
FILES_BEFORE_STATE = (SETTINGS_FILE, METRICS_FILE, STATE_FILE)  # what a run may have written when it has saved no state
# Of the settings of a run these count here, some with other defaults; None keeps the run's.
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("data", "tasks", "skip_bad_rows", "model", "max_length", "hidden_dropout", "attention_dropout")),
    "epochs": None,
    "max_steps": None,
    "batch_size": 4,
    "accumulate": 32,
    "learning_rate": 5e-5,
    "head_learning_rate": (),
    "warmup": None,
    "weight_decay": None,
    "clip": None,
    **dict.fromkeys(("amp", "kernels", "self_check", "device", "seed", "log_every", "save_every")),
}
_HEAD_RATE = RunConfig.head_learning_rate[0]  # a new head's: at the encoder's it would hold the encoder up
_HELP = {
    "data": "file with one text a line, directory in the course layout, or demo for the generated data set",
    "tasks": "tasks whose training sentences are read, where the data is no file",
    "epochs": "passes over the texts",
    "batch_size": "texts in a micro-batch",
    "accumulate": "micro-batches a step",
    "learning_rate": "peak rate of the encoder; -1 for one that suits the model's width",
    "head_learning_rate": f"peak rate of the head; by default that of the encoder, or {_HEAD_RATE} where it is new",
    "seed": "of a new head, batches, masks and dropout",
    "save_every": "steps between two states that --resume can start from",
}


class Pretraining:
    """One run in its folder: pre-trains, evaluates before and after, saves, and says what it does."""

    def __init__(self, folder: RunFolder, config: RunConfig, console: Console) -> None:
        self.directory, self.console = folder.path, console
        self.began = time.perf_counter()
        self.precision = choose_precision(config.device, config.amp)
        self.say(f"device     {self.precision.device_name}")
        self.say(f"precision  {self.precision.name} ({self.precision.reason})")
        choose_kernels(config.kernels, self.precision)  # so that what cannot be is said before anything is read
        self.base = load_pretrained(config)
        self.say(f"model      {self.base.origin}")
        self.config = fit_model(config, self.base.encoder.config)
        texts = read_texts(config, lambda text: self.say(f"warning: {text}"))
        sequences = encode_texts(texts, self.base.tokenizer, self.config.max_length)
        self.kernels = resolve_kernels(
            config.kernels,
            config.self_check,
            self.precision,
            lambda: shapes_of_pretraining(self.config, self.base.encoder, sequences, self.precision),
            self.say,
        )
        self.say(f"kernels    {self.kernels}")
        self.model, loaded = build_language_model(self.config, self.base, self.precision)
        origin = "as it came with the model" if loaded else "new: the model has none that reads its word table"
        self.say(f"head       {origin}")
        head_rate = _head_rate(self.config, loaded)
        self.config = replace(self.config, head_learning_rate=(head_rate,))
        self.say(f"rates      encoder {self.config.learning_rate:.3g}, head {head_rate} at their peak")
        self.trainer = Pretrainer(self.config, self.model, self.base.tokenizer, sequences, self.precision)
        self.say(f"data       {config.data}: {len(self.trainer.texts)} texts, {len(self.trainer.held_out)} held out")
        self.digests = {"training": _digest(sequences)}
        if folder.resumed:
            self.progress = load_state(self.directory, self.trainer.optimizer, self.digests)
        else:
            self.progress, self.directory = Progress(), folder.claim()
            _write_json(self.directory / SETTINGS_FILE, {name: asdict(config)[name] for name in _SETTINGS})
        self.earlier_seconds = self.progress.seconds
        self.log = MetricsLog(self.directory, keep=self.progress.log_bytes)

    def train(self) -> None:
        """Pre-train from where the run stands to its end, then write what it leaves."""
        progress, trainer = self.progress, self.trainer
        if not progress.log_bytes:
            self._evaluate()
        with stop_on_signal() as stop:
            began = time.perf_counter()
            for result in trainer.steps(progress.steps):
                progress.steps = result.step
                progress.examples += result.texts
                progress.tokens += result.tokens
                last = result.step == trainer.total_steps
                if last or result.step % self.config.log_every == 0:
                    self._show(result)
                if last or stop.made or result.step % self.config.save_every == 0:
                    progress.training_seconds += time.perf_counter() - began
                    self._save()
                    began = time.perf_counter()
                if stop.made:
                    break
        if progress.steps < trainer.total_steps:
            self.say(f"stopped    after step {progress.steps}; go on with: --resume {self.directory}")
            raise KeyboardInterrupt
        self._finish()

    def _show(self, result: PretrainingStep) -> None:
        entry = result.entry()
        self.log.write(entry)
        self.say(f"step {result.step}/{self.trainer.total_steps}  loss {entry['loss']:.3f}")

    def _evaluate(self) -> dict[str, float]:
        found = self.trainer.evaluate()
        self.log.write({"event": "evaluation", "step": self.progress.steps, "held_out": found})
        shown = "  ".join(f"{name} {found[name]:.3f}" for name in ("loss", "perplexity", "accuracy"))
        self.say(f"held out   {shown}")
        if not found["masked"]:
            self.say("warning: no wordpiece of the held-out texts was masked, so that there is no score")
        return found

    def _save(self) -> None:
        self.progress.seconds = self.earlier_seconds + time.perf_counter() - self.began
        self.progress.log_bytes = self.log.length
        save_state(self.directory, self.trainer.optimizer, self.progress, self.digests)

    def _finish(self) -> None:
        """Write the model and the summary; InputError where the held-out score is not finite: such a model is of no
        use."""
        after = self._evaluate()
        if after["masked"] and not math.isfinite(after["loss"]):
            raise InputError(
                f"{self.directory}: the held-out loss is not finite, so that no model is written; expected a run that "
                "stays finite, as with a lower --learning-rate"
            )
        self.log.close()
        with (self.directory / METRICS_FILE).open(encoding="utf-8") as file:
            before = json.loads(next(file))["held_out"]
        self.model.save(self.directory / WEIGHTS_FILE)
        with replacing(self.directory / CONFIG_FILE) as beside:
            self.base.encoder.config.write(beside)
        self.base.tokenizer.save(self.directory)
        progress = self.progress
        progress.seconds = self.earlier_seconds + time.perf_counter() - self.began
        summary = {
            "before": before,
            "after": after,
            "texts": len(self.trainer.texts),
            "held_out": len(self.trainer.held_out),
            "steps": progress.steps,
            "skipped_steps": int(self.trainer.optimizer.state.skipped_steps.item()),
            "seconds": progress.seconds,
            "training_seconds": progress.training_seconds,
            "texts_per_second": progress.examples / max(progress.training_seconds, 1e-9),
            "tokens_per_second": progress.tokens / max(progress.training_seconds, 1e-9),
            "device": self.precision.device_name,
            "precision": self.precision.name,
            "kernels": self.kernels,
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_json(self.directory / SUMMARY_FILE, summary)
        self.say(f"speed      {summary['tokens_per_second']:.0f} tokens/s; {progress.seconds:.0f} s in all")
        self.say(f"written    {self.directory}; fine-tune with: python -m train.run --model {self.directory}")

    def say(self, text: str) -> None:
        """Print one plain line."""
        say(self.console, text)


def _digest(sequences: Sequence[np.ndarray]) -> str:
    """sha256 (hex) of tokenised texts; each begins and ends with a special token, so that they do not run together."""
    return hashlib.sha256(np.concatenate(sequences).tobytes()).hexdigest()


def _head_rate(config: RunConfig, loaded: bool) -> str:
    """The rate of the head where it is given, else one that suits where the head comes from."""
    if config.head_learning_rate:
        return config.head_learning_rate[0]
    return str(config.learning_rate) if loaded else _HEAD_RATE


def build_language_model(config: RunConfig, base: Model, precision: Precision) -> tuple[MaskedLanguageModel, bool]:
    """The language model of a pre-trained encoder on the run's device, and whether the head came with it."""
    head = LanguageModelHead(base.encoder.config)
    loaded = False
    if base.directory is not None:
        path = base.directory / WEIGHTS_FILE
        loaded = head.load(read_safetensors(path), str(path))
    if not loaded:
        head.initialise(config.seed)
    model = MaskedLanguageModel(
        base.encoder.to(precision.device),
        head.to(precision.device),
        compute_dtype=precision.compute_dtype,
        gradient_dtype=precision.compute_dtype if config.accumulate == 1 else torch.float32,
    )
    return model, loaded


def build_parser() -> OneLineParser:
    """The command line of `python -m train.pretrain`."""
    parser = settings_parser(
        "python -m train.pretrain",
        "Train a BERT further as a masked language model, on raw text.",
        "of the model to be made",
    )
    for option in fields(RunConfig):
        if option.name in _SETTINGS:
            default = _SETTINGS[option.name]
            argument = argument_of(option, option.default if default is None else default, _HELP.get(option.name))
            if option.name == "head_learning_rate":
                argument.update(type=_one_rate, metavar="float")
            parser.add_argument(flag_of(option.name), **argument)
    return parser


def _one_rate(text: str) -> tuple[str]:
    """What a run takes for each task, and here is one number."""
    if "," in text or "=" in text:
        raise InputError(f"--head-learning-rate {text}: expected one number, there is one head")
    return (text,)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    given = build_parser().parse(arguments)
    folder = resumed_folder(given)
    if folder is None:
        config = config_from(given)
        folder = new_folder(given, "pretrain")
    else:
        config = read_settings(folder.path / SETTINGS_FILE)
        check_resumable(config, given, folder.path)
    console = RunConsole()
    run = Pretraining(folder, config, console)
    if folder.resumed:
        say(console, f"resumed    after step {run.progress.steps} of {run.trainer.total_steps}")
    run.train()


def config_from(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the flags describe; InputError where a value is not allowed."""
    defaults = {name: value for name, value in _SETTINGS.items() if value is not None}
    return RunConfig(**{**defaults, **{k: v for k, v in vars(arguments).items() if k in _SETTINGS}})


def read_settings(path: Path) -> RunConfig:
    """The configuration in a pre-training's folder; InputError where the file is missing or holds something else."""
    return RunConfig.read(path, _SETTINGS, content_is="settings", of="a pre-training")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_command(main))
