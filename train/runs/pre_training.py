"""One pre-training run: a masked language model trained on, evaluated before and after, and left as a model."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.language_model import LanguageModelHead, MaskedLanguageModel
from concord.bert.models import Model
from concord.bert.names import WEIGHTS_FILE
from concord.bert.weights import read_safetensors
from concord.train.checks.shapes import shapes_of_pretraining
from concord.train.data.texts import encode_texts, read_texts
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.names import CONFIG_FILE, PRETRAINING_FILE
from concord.train.reporter import Reporter
from concord.train.runs.session import Session
from concord.train.runs.skipping import check_learns
from concord.train.settings.config import NEW_HEAD_RATE, RunConfig
from concord.train.settings.options import setting_text
from concord.train.settings.parts import LogConfig
from concord.train.settings.typed import pretraining_config
from concord.train.steps.build import fit_model, load_pretrained
from concord.train.steps.precision import Precision, choose_kernels, choose_precision
from concord.train.steps.pretraining import TASK, Pretrainer, PretrainingStep


class Pretraining:
    """A run that `begin_pre_training` has begun.

    Args:
        session: the run's life in its folder, which is open.
        outputs: when it logs and saves.
        base: the model that it started from, with its tokenizer.
        trainer: with the language model and the optimizer.
    """

    def __init__(self, session: Session, outputs: LogConfig, base: Model, trainer: Pretrainer) -> None:
        self.session, self.reporter = session, session.reporter
        self.outputs, self.base, self.trainer = outputs, base, trainer

    def train(self) -> dict[str, Any]:
        """Pre-train from where the run stands to its end, then write what it leaves, and return its summary."""
        session, trainer = self.session, self.trainer
        progress = session.progress
        if not progress.log_bytes:
            self._evaluate()
        with session.training(trainer.total_steps):
            began = time.perf_counter()
            for result in trainer.steps(progress.steps):
                progress.steps = result.step
                progress.examples += result.texts
                progress.tokens += result.tokens
                last = result.step == trainer.total_steps
                if last or result.step % self.outputs.log_every == 0:
                    self._show(result)
                if last or session.stop.made or result.step % self.outputs.save_every == 0:
                    progress.training_seconds += time.perf_counter() - began
                    session.save()
                    began = time.perf_counter()
                if session.stop.made:
                    break
        try:
            summary = self._finish()
        finally:
            session.close()
        self.reporter.say(
            f"written    {session.directory}; fine-tune with: python -m train.run --model {session.directory}"
        )
        return summary

    def _show(self, result: PretrainingStep) -> None:
        entry = result.entry()
        self.session.log.write(entry)
        self.reporter.say(f"step {result.step}/{self.trainer.total_steps}  loss {entry['loss']:.3f}")
        optimizer = self.trainer.optimizer
        skipped, scale = optimizer.state.skipped_in_row.tolist(), optimizer.loss_scale.item()
        check_learns(self.session.directory, [TASK], skipped, scale, scaling=optimizer.settings.scaling)

    def _evaluate(self) -> dict[str, float]:
        found = self.trainer.evaluate()
        self.session.log.write({"event": "evaluation", "step": self.session.progress.steps, "held_out": found})
        shown = "  ".join(f"{name} {found[name]:.3f}" for name in ("loss", "perplexity", "accuracy"))
        self.reporter.say(f"held out   {shown}")
        if not found["masked"]:
            self.reporter.warn("no wordpiece of the held-out texts was masked, so that there is no score")
        return found

    def _finish(self) -> dict[str, Any]:
        """Write the model and the summary, and return the summary; InputError where the held-out score is not finite:
        such a model is of no use."""
        session, directory = self.session, self.session.directory
        after = self._evaluate()
        if after["masked"] and not math.isfinite(after["loss"]):
            raise InputError(
                f"{directory}: the held-out loss is not finite, so that no model is written; expected a run that "
                "stays finite, as with a lower --learning-rate"
            )
        entries, damaged = session.log.entries()
        first = entries[0] if entries else {}
        before = first["held_out"] if first.get("event") == "evaluation" and not first["step"] else None
        session.wait()
        self.trainer.model.save(directory / WEIGHTS_FILE)
        with replacing(directory / CONFIG_FILE) as beside:
            self.base.encoder.config.write(beside)
        self.base.tokenizer.save(directory, self.base.encoder.config.max_position_embeddings)
        scores = {"before": before, "after": after, "damaged_log_lines": damaged}
        texts = {"texts": len(self.trainer.texts), "held_out": len(self.trainer.held_out)}
        summary = session.write_summary(scores | texts, "texts", {})
        self.reporter.say(f"speed      {summary['tokens_per_second']:.0f} tokens/s; {summary['seconds']:.0f} s in all")
        return summary


def begin_pre_training(
    folder: RunFolder, flat: RunConfig, reporter: Reporter, write_settings: Callable[[Path], None]
) -> Pretraining:
    """Read, check and build all of a pre-training, or of one that goes on, and say what it is.

    flat: its settings as the flags give them; write_settings: writes what --resume reads; reporter: is told what
    the run does. Raises InputError for whatever is wrong with its input, before anything is written.
    """
    config = pretraining_config(flat)
    session = Session(folder, reporter, choose_precision(config.compute.device, config.compute.amp))
    precision = session.precision
    reporter.say(f"device     {precision.device_name}")
    reporter.say(f"precision  {precision.name} ({precision.reason})")
    choose_kernels(config.compute.kernels, precision)  # so that a wrong --kernels is refused before anything is read
    base = load_pretrained(config.model)
    reporter.say(f"model      {base.origin}")
    config = fit_model(config, base.encoder.config)
    texts = read_texts(config.data, reporter)
    sequences = encode_texts(texts, base.tokenizer, config.data.max_length)
    session.resolve_kernels(config.compute, lambda: shapes_of_pretraining(config, base.encoder, sequences, precision))
    model, loaded = build_language_model(base, precision, config.model.seed, accumulates=config.batches.accumulate > 1)
    reporter.say(
        f"head       {'as it came with the model' if loaded else 'new: the model has none that reads its word table'}"
    )
    # A new head has a rate of its own: at the encoder's it would hold the encoder up.
    rate = config.optimizer.learning_rate
    head_rate = setting_text(flat.head_learning_rate) or (str(rate) if loaded else NEW_HEAD_RATE)
    reporter.say(f"rates      encoder {rate:.3g}, head {head_rate} at their peak")
    trainer = Pretrainer(
        model,
        base.tokenizer,
        sequences,
        precision,
        batches=config.batches,
        optimizer=config.optimizer,
        head_rate=float(head_rate),
    )
    reporter.say(f"data       {config.data.source}: {len(trainer.texts)} texts, {len(trainer.held_out)} held out")
    session.open(
        trainer.optimizer, {"training": _digest(sequences)}, {PRETRAINING_FILE: write_settings}, trainer.total_steps
    )
    if folder.resumed:
        reporter.say(f"resumed    after step {session.progress.steps} of {trainer.total_steps}")
    return Pretraining(session, config.outputs, base, trainer)


def _digest(sequences: Sequence[np.ndarray]) -> str:
    """sha256 (hex) of tokenised texts; each begins and ends with a special token, so that they do not run together."""
    return hashlib.sha256(np.concatenate(sequences).tobytes()).hexdigest()


def build_language_model(
    base: Model, precision: Precision, seed: int, *, accumulates: bool
) -> tuple[MaskedLanguageModel, bool]:
    """The language model of a pre-trained encoder on the run's device, and whether the head came with it.

    seed: of a new head; accumulates: whether a step has several micro-batches.
    """
    head = LanguageModelHead(base.encoder.config)
    loaded = False
    if base.directory is not None:
        path = base.directory / WEIGHTS_FILE
        loaded = head.load(read_safetensors(path), str(path))
    if not loaded:
        head.initialise(seed)
    model = MaskedLanguageModel(
        base.encoder.to(precision.device),
        head.to(precision.device),
        compute_dtype=precision.compute_dtype,
        gradient_dtype=torch.float32 if accumulates else precision.compute_dtype,
    )
    return model, loaded
