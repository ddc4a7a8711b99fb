"""One pre-training run: a masked language model trained on, evaluated before and after, and left as a model."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.models import Model
from concord.bert.weights import WEIGHTS_FILE, read_safetensors
from concord.train.checks.shapes import shapes_of_pretraining
from concord.train.data.texts import encode_texts, read_texts
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.names import CONFIG_FILE, METRICS_FILE, PRETRAINING_FILE
from concord.train.runs.session import Session
from concord.train.settings.config import RunConfig
from concord.train.steps.build import fit_model, load_pretrained
from concord.train.steps.precision import Precision, choose_kernels, choose_precision
from concord.train.steps.pretraining import Pretrainer, PretrainingStep

NEW_HEAD_RATE = RunConfig.head_learning_rate[0]  # at the encoder's it would hold the encoder up


class Pretraining:
    """A run that `begin_pre_training` has begun.

    Args:
        session: the run's life in its folder, which is open.
        config: of the run.
        base: the model that it started from, with its tokenizer.
        trainer: with the language model and the optimizer.
    """

    def __init__(self, session: Session, config: RunConfig, base: Model, trainer: Pretrainer) -> None:
        self.session, self.config, self.base, self.trainer = session, config, base, trainer

    def train(self) -> None:
        """Pre-train from where the run stands to its end, then write what it leaves."""
        session, trainer = self.session, self.trainer
        progress = session.progress
        if not progress.log_bytes:
            self._evaluate()
        with session.training(trainer.total_steps) as stop:
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
                    session.save()
                    began = time.perf_counter()
                if stop.made:
                    break
        self._finish()

    def _show(self, result: PretrainingStep) -> None:
        entry = result.entry()
        self.session.log.write(entry)
        self.session.say(f"step {result.step}/{self.trainer.total_steps}  loss {entry['loss']:.3f}")

    def _evaluate(self) -> dict[str, float]:
        found = self.trainer.evaluate()
        self.session.log.write({"event": "evaluation", "step": self.session.progress.steps, "held_out": found})
        shown = "  ".join(f"{name} {found[name]:.3f}" for name in ("loss", "perplexity", "accuracy"))
        self.session.say(f"held out   {shown}")
        if not found["masked"]:
            self.session.warn("no wordpiece of the held-out texts was masked, so that there is no score")
        return found

    def _finish(self) -> None:
        """Write the model and the summary; InputError where the held-out score is not finite: such a model is of no
        use."""
        session, directory = self.session, self.session.directory
        after = self._evaluate()
        if after["masked"] and not math.isfinite(after["loss"]):
            raise InputError(
                f"{directory}: the held-out loss is not finite, so that no model is written; expected a run that "
                "stays finite, as with a lower --learning-rate"
            )
        session.log.close()
        with (directory / METRICS_FILE).open(encoding="utf-8") as file:
            before = json.loads(next(file))["held_out"]
        self.trainer.model.save(directory / WEIGHTS_FILE)
        with replacing(directory / CONFIG_FILE) as beside:
            self.base.encoder.config.write(beside)
        self.base.tokenizer.save(directory)
        scores = {"before": before, "after": after}
        texts = {"texts": len(self.trainer.texts), "held_out": len(self.trainer.held_out)}
        summary = session.write_summary(scores | texts, "texts", {})
        session.say(f"speed      {summary['tokens_per_second']:.0f} tokens/s; {summary['seconds']:.0f} s in all")
        session.say(f"written    {directory}; fine-tune with: python -m train.run --model {directory}")


def begin_pre_training(
    folder: RunFolder, config: RunConfig, console: Console, write_settings: Callable[[Path], None]
) -> Pretraining:
    """Read, check and build all of a pre-training, or of one that goes on, and say what it is.

    write_settings: writes what --resume reads. Raises InputError for whatever is wrong with its input, before anything
    is written.
    """
    session = Session(folder, console, choose_precision(config.device, config.amp))
    precision = session.precision
    session.say(f"device     {precision.device_name}")
    session.say(f"precision  {precision.name} ({precision.reason})")
    choose_kernels(config.kernels, precision)  # so that what cannot be is said before anything is read
    base = load_pretrained(config)
    session.say(f"model      {base.origin}")
    config = fit_model(config, base.encoder.config)
    texts = read_texts(config, session.warn)
    sequences = encode_texts(texts, base.tokenizer, config.max_length)
    session.resolve_kernels(
        config.kernels, config.self_check, lambda: shapes_of_pretraining(config, base.encoder, sequences, precision)
    )
    model, loaded = build_language_model(config, base, precision)
    session.say(
        f"head       {'as it came with the model' if loaded else 'new: the model has none that reads its word table'}"
    )
    config = replace(config, head_learning_rate=(_head_rate(config, loaded),))
    session.say(f"rates      encoder {config.learning_rate:.3g}, head {config.head_learning_rate[0]} at their peak")
    trainer = Pretrainer(config, model, base.tokenizer, sequences, precision)
    session.say(f"data       {config.data}: {len(trainer.texts)} texts, {len(trainer.held_out)} held out")
    session.open(trainer.optimizer, {"training": _digest(sequences)}, {PRETRAINING_FILE: write_settings})
    if folder.resumed:
        session.say(f"resumed    after step {session.progress.steps} of {trainer.total_steps}")
    return Pretraining(session, config, base, trainer)


def _digest(sequences: Sequence[np.ndarray]) -> str:
    """sha256 (hex) of tokenised texts; each begins and ends with a special token, so that they do not run together."""
    return hashlib.sha256(np.concatenate(sequences).tobytes()).hexdigest()


def _head_rate(config: RunConfig, loaded: bool) -> str:
    """The rate of the head where it is given, else one that suits where the head comes from."""
    if config.head_learning_rate:
        return config.head_learning_rate[0]
    return str(config.learning_rate) if loaded else NEW_HEAD_RATE


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
