"""One fine-tuning run: trains, evaluates, keeps the best model, and answers with it."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from concord.bert.errors import InputError
from concord.bert.model_files import settle
from concord.bert.names import CARD_FILE
from concord.bert.tensor_files import digests_of_files
from concord.bert.tokenizer import Tokenizer
from concord.train.data.datasets import Datasets
from concord.train.data.tasks import Task
from concord.train.data.tokenized import TokenizedSplit
from concord.train.objectives.metrics import overall
from concord.train.objectives.undefined import weak_answers
from concord.train.outputs.advice import pcgrad_turns, surgery_advice
from concord.train.outputs.dev_answers import write_answers
from concord.train.outputs.logged_step import LoggedStep
from concord.train.outputs.mistakes import write_mistakes
from concord.train.outputs.names import BEST, SEALED, answers_file, mistakes_file, predictions_file
from concord.train.outputs.predictions import write_predictions
from concord.train.outputs.stopping import ReadingStopped
from concord.train.outputs.summary import best_metric_text, epoch_summary, score_line, score_of, surgery_summary
from concord.train.reporter import SILENT
from concord.train.runs.best_model import check_best
from concord.train.runs.companions import best_card, classifier_weights, write_companions, write_own_pooler
from concord.train.runs.drawing import draw, leave
from concord.train.runs.planning import plan_of
from concord.train.runs.session import Session
from concord.train.runs.skipping import check_learns, describe
from concord.train.settings.parts import OutputConfig
from concord.train.steps.evaluation import Answers, evaluate, predict
from concord.train.steps.loop import Trainer


class FineTuning:
    """A run that `train.runs.begin` has begun.

    Args:
        session: the run's life in its folder, which is open.
        outputs: when it logs, saves and evaluates.
        tasks: of the run.
        tokenizer: of the model.
        data: its sets.
        trainer: with the model and the optimizer.
        max_length: wordpieces at which sequences are cut.
        rule: of surgery, by the name that --surgery takes.
    """

    def __init__(
        self,
        session: Session,
        outputs: OutputConfig,
        tasks: list[Task],
        tokenizer: Tokenizer,
        data: Datasets,
        trainer: Trainer,
        max_length: int,
        rule: str,
    ) -> None:
        self.session, self.reporter = session, session.reporter
        self.outputs, self.tasks = outputs, tasks
        self.tokenizer, self.data, self.trainer, self._max_length = tokenizer, data, trainer, max_length
        self.model, self.optimizer, self._rule = trainer.model, trainer.optimizer, rule
        self._logged: tuple[LoggedStep, float] | None = None  # and the examples a second up to it
        if session.leads and session.progress.best_dev and not self._is_over():
            check_best(session)
        session.share_progress()
        trainer.division.number = max(1, session.progress.micro_batches)

    def train(self) -> dict[str, Any]:
        """Train from where the run stands to its end, then write what it leaves, and return its summary."""
        trainer, session = self.trainer, self.session
        steps_per_epoch = trainer.sampler.steps_per_epoch
        self.reporter.begin_training(plan_of(trainer, self.outputs, self.data, session.progress.steps))
        with session.training(self._is_over):
            while not self._is_over() and not session.stop.made:
                epoch, done = divmod(session.progress.steps, steps_per_epoch)
                self.reporter.begin_epoch(epoch, done)
                try:
                    self._train_epoch(epoch, done)
                    if self._epoch_is_over():
                        self._evaluate(epoch)
                except ReadingStopped:
                    pass
                finally:
                    self.reporter.end_epoch()
                session.save()
        try:
            summary = self._finish()
        finally:
            session.close()
        self.reporter.say(f"written    {session.directory}")
        if session.leads:
            self.reporter.say(f"conflicts  {summary['advice']}")
        return summary

    def _is_over(self) -> bool:
        return self.session.progress.steps == self.trainer.total_steps or self._stopped_early()

    def _stopped_early(self) -> bool:
        """Whether so many evaluations in a row had no better model that the run ends there."""
        patience = self.outputs.early_stopping
        return bool(patience) and self.session.progress.since_best >= patience

    def _epoch_is_over(self) -> bool:
        steps = self.session.progress.steps
        return steps == self.trainer.total_steps or steps % self.trainer.sampler.steps_per_epoch == 0

    def _train_epoch(self, epoch: int, done: int) -> None:
        progress, outputs = self.session.progress, self.outputs
        began, examples = time.perf_counter(), 0
        for result in self.trainer.epoch(epoch, done):
            evaluates = outputs.evaluate_every and result.step % outputs.evaluate_every == 0
            progress.steps, progress.micro_batches = result.step, self.trainer.division.number
            progress.examples += result.examples
            progress.tokens += result.tokens
            examples += result.examples
            self.reporter.advance()
            self.session.stop.look()
            # Each epoch ends with a logged step, from which the summary has its seconds and conflicts; early stopping
            # may end it with any evaluation.
            last = self._epoch_is_over() or (outputs.early_stopping and evaluates)
            if self.session.leads and (result.step % outputs.log_every == 0 or last):
                self._show_logged()
                seconds = time.perf_counter() - began
                logged = LoggedStep(result, self.optimizer, progress.examples, progress.training_seconds + seconds)
                self._logged = logged, examples / seconds
            if self._logged and self._logged[0].ready():
                self._show_logged()
            # The end of an epoch is evaluated and saved by the caller. An evaluation is followed by a saved state, so
            # that a resumed run neither misses nor repeats it, and a stop waits for both.
            if (evaluates or result.step % outputs.save_every == 0) and not self._epoch_is_over():
                self._show_logged()
                self._add_training_time(began)
                if evaluates:
                    self._evaluate(epoch)
                self.session.save()
                began, examples = time.perf_counter(), 0
            if self.session.stop.made or self._stopped_early():
                break
        self._show_logged()
        self._add_training_time(began)

    def _show_logged(self) -> None:
        """Write and show the logged step whose numbers were still on their way; InputError where nothing is learned."""
        if self._logged:
            entry = self._logged[0].entry()
            self.session.log.write(entry)
            self.reporter.show_step(entry, self._logged[1])
            self._logged = None
            names, scaling = [task.name for task in self.tasks], self.optimizer.settings.scaling
            check_learns(self.session.directory, names, entry["skipped_in_row"], entry["loss_scale"], scaling=scaling)

    def _add_training_time(self, began: float) -> None:
        if self.session.precision.device.type == "cuda":
            torch.cuda.synchronize()
        self.session.progress.training_seconds += time.perf_counter() - began

    def _evaluate(self, epoch: int) -> None:
        """Evaluate the averaged weights on the dev sets, and keep them where they are the best so far."""
        with self.optimizer.averaged():
            metrics, answers = self._dev_answers()
            self._judge(epoch, metrics, answers)
        self.reporter.show_scores(metrics, self.session.progress.steps)

    def _dev_answers(self) -> tuple[dict[str, dict[str, float | None]], dict[str, Answers]]:
        """The dev metrics of the weights as they are, and the answers; a frozen encoder does not run again."""
        device, kept, sets, ranks = self.session.precision.device, self.trainer.kept, self.data.dev, self.session.ranks
        gather, reporter = None, self.reporter
        with self.reporter.reading("dev sets", sum(map(len, sets.values()))):
            if kept is not None:  # what the encoder has read is told of
                gather, reporter = kept.of(self.model, sets, device, self.reporter, ranks).gather, SILENT
            return evaluate(
                self.model, sets, device, choose_thresholds=True, gather_kept=gather, reporter=reporter, ranks=ranks
            )

    def _judge(self, epoch: int, metrics: dict[str, dict[str, float | None]], answers: Mapping[str, Answers]) -> None:
        """Log an evaluation; where it is the best so far, keep the model, its answers and its worst mistakes."""
        progress = self.session.progress
        thresholds = self.model.thresholds()
        entry = {"event": "evaluation", "step": progress.steps, "epoch": epoch, "dev": metrics}
        self.session.log.write(entry | ({"thresholds": thresholds} if thresholds else {}))
        for name, own in answers.items():
            if problem := weak_answers(self.data.dev[name].task, own.predictions, own.errors):
                self.reporter.warn(problem)
        score = score_of(metrics, self.tasks, self.outputs.best_metric)
        # A model that no step has changed is not the run's; where the last steps were skipped, it is of one before.
        step = progress.steps - int(self.optimizer.state.skipped_in_row[0].item())
        progress.since_best += 1
        if step and score > progress.best_score:
            progress.best_score, progress.best_step, progress.best_dev = score, step, metrics
            progress.since_best = 0
            self.optimizer.gather_master()
            if not self.session.leads:
                return
            self._keep_best()
            self._write_predictions("dev", self.data.dev, {name: own.predictions for name, own in answers.items()})
            for name, examples in self.data.dev_examples.items():
                own = self.data.dev[name]
                write_answers(self.session.directory / answers_file(name), own, answers[name], examples)
                path = self.session.directory / mistakes_file(name)
                write_mistakes(path, own.task, examples, answers[name], self.outputs.mistakes)

    def _keep_best(self) -> None:
        """Write the model as it is now, as a directory that Hugging Face's library reads."""
        best = self.session.directory / BEST
        write_companions(best, self.model, self.tasks, self.tokenizer, self._max_length)
        sealed = digests_of_files(best, SEALED)
        write_own_pooler(best, self.model)
        weights = classifier_weights(self.model, self.tasks)
        self.session.progress.best_digest = self.model.save(best, sealed, weights)

    def _write_predictions(
        self, split: str, sets: Mapping[str, TokenizedSplit], answers: Mapping[str, np.ndarray]
    ) -> None:
        for name, examples in sets.items():
            path = self.session.directory / predictions_file(name, split)
            write_predictions(path, examples.task, examples.example_ids, answers[name])

    def _finish(self) -> dict[str, Any]:
        """Answer the test sets with the best model; write predictions, summary and pictures, and return the summary.

        InputError where no model is the best, since every evaluation, or every step, met numbers that are not finite.
        """
        session, progress = self.session, self.session.progress
        if not progress.best_dev:
            skipped = self.optimizer.state.skipped_in_row.tolist()
            why = "no evaluation gave finite metrics"
            if skipped[0] == progress.steps:
                why = describe([task.name for task in self.tasks], skipped)
            raise InputError(
                f"{session.directory}: {why}, so that no model is the best; expected a run that stays finite, as "
                "with a lower --learning-rate"
            )
        best = session.directory / BEST
        self.optimizer.gather_master()
        if session.leads:
            # Once more: the run may have stood, and been damaged.
            write_companions(best, self.model, self.tasks, self.tokenizer, self._max_length)
            self.model.load(best)
            settle(best)
            write_own_pooler(best, self.model)  # a kill may have come between the two
        self.optimizer.spread_master(self.model.buffers())
        with self.reporter.reading("test sets", sum(map(len, self.data.test.values()))):
            answers = {
                name: predict(self.model, split, session.precision.device, self.reporter, session.ranks)
                for name, split in self.data.test.items()
            }
        if not session.leads:
            return {}
        session.wait()
        self._write_predictions("test", self.data.test, answers)
        entries, damaged = session.log.entries()
        summary = self._sum_up(entries, damaged)
        self._draw(entries)
        self.reporter.finish(session.directory, summary)
        return summary

    def _sum_up(self, entries: list[dict[str, Any]], damaged: int) -> dict[str, Any]:
        session, progress = self.session, self.session.progress
        score, mean = overall(progress.best_dev, self.tasks)
        before = {"dev": progress.best_dev, "overall": score, "mean": mean}
        before |= {"thresholds": dict(self.model.thresholds()), "best_step": progress.best_step}
        before |= {"examples": self.data.sizes()}
        before |= {"best_metric": best_metric_text(self.outputs.best_metric), "stopped_early": self._stopped_early()}
        names = [task.name for task in self.tasks]
        surgery, turns = surgery_summary(self.optimizer, names), pcgrad_turns(entries, names)
        epochs = epoch_summary(entries, self.trainer.sampler.steps_per_epoch, progress.steps)
        advice = surgery_advice(surgery, turns, self._rule)
        after = {"epochs": epochs, "damaged_log_lines": damaged, "surgery": surgery, "turns": turns, "advice": advice}
        summary = session.write_summary(before, "examples", after)
        if self._stopped_early():
            self.reporter.say(
                f"stopped    early, after step {progress.steps} of {self.trainer.total_steps}: no better "
                f"{best_metric_text(self.outputs.best_metric)} in {progress.since_best} evaluations in a row"
            )
        self.reporter.say(f"best       step {progress.best_step}: {score_line(progress.best_dev)}")
        self.reporter.say(f"           mean {mean:.3f}" + ("" if score is None else f"  overall {score:.3f}"))
        self.reporter.say(
            f"speed      {summary['examples_per_second']:.0f} examples/s, {summary['tokens_per_second']:.0f} tokens/s; "
            f"{progress.seconds:.0f} s in all"
        )
        if skipped := summary["skipped_steps"]:
            self.reporter.say(f"skipped    {skipped} of {progress.steps} steps: gradients were not finite")
        return summary

    def _draw(self, entries: list[dict[str, Any]]) -> None:
        folder, steps = self.session.directory, self.session.progress.steps
        draw(entries, folder, steps, self.reporter)
        leave(CARD_FILE, best_card(self.model, self.tasks), entries, folder, steps, self.reporter)
