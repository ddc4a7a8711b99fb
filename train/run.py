"""Train: python -m train.run --amp --surgery pcgrad [--data DIR] [--tasks sst,paraphrase,sts] [--resume DIR] ...

With no other argument it trains the bundled MiniLM on a data set that the project generates itself, on a CPU or GPU.
"""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from concord.bert.errors import InputError
from concord.bert.files import replacing
from concord.bert.tokenizer import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, Tokenizer
from concord.bert.weights import WEIGHTS_FILE
from concord.train.checks.self_check import resolve_kernels
from concord.train.checks.shapes import shapes_of_run
from concord.train.command import StopRequest, run_command, stop_on_signal
from concord.train.data.datasets import Datasets, load_datasets, run_tasks
from concord.train.data.tasks import Task, read_tasks, write_tasks
from concord.train.data.tokenized import TokenizedSplit
from concord.train.flags import build_parser, check_resumable, config_from, new_folder, resumed_folder
from concord.train.outputs.checkpoint import STATE_FILE, Progress, load_state, save_state
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.mistakes import write_mistakes
from concord.train.outputs.predictions import write_predictions
from concord.train.outputs.progress import ProgressDisplay, RunConsole, reading_bar, say
from concord.train.outputs.report import METRICS_FILE, LoggedStep, MetricsLog, dev_sum, score_line, write_summary
from concord.train.settings.config import RunConfig
from concord.train.settings.idle import without_effect
from concord.train.steps.build import (
    BEST,
    CONFIG_FILE,
    TASKS_FILE,
    build_model,
    build_optimizer,
    fit_model,
    load_pretrained,
)
from concord.train.steps.evaluation import OnRead, Reading, evaluate, predict
from concord.train.steps.graphs import choose_graphs
from concord.train.steps.loop import Trainer
from concord.train.steps.precision import Precision, choose_kernels, choose_precision
from concord.train.steps.weightings import describe_surgery

CACHE = "token-cache"


class _StoppedReading(Exception):
    """A stop was asked for while a frozen encoder read what its heads will learn from: nothing is lost by it."""


class Run:
    """One training run in its folder: trains, evaluates, saves, and says what it does."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        tasks: list[Task],
        console: Console,
        precision: Precision,
    ) -> None:
        self.directory, self.config, self.console, self.precision = folder.path, config, console, precision
        self.began = time.perf_counter()
        self.tasks = tasks
        pretrained = load_pretrained(config)
        self.say(f"model      {pretrained.origin}")
        config = fit_model(config, pretrained.encoder.config)
        below = "" if config.layer_decay == 1 else f" (times {config.layer_decay:g} from each layer to the one below)"
        heads = ",".join(config.head_learning_rate)
        self.say(f"rates      encoder {config.learning_rate:.3g}{below}, heads {heads} at their peak")
        self.tokenizer: Tokenizer = pretrained.tokenizer

        def warn(text: str) -> None:
            self.say(f"warning: {text}")

        self.data: Datasets = load_datasets(
            config, self.tasks, self.tokenizer, folder.path.resolve().parent / CACHE, warn
        )
        sizes = ", ".join(
            f"{task.name} {len(self.data.train[task.name])}/{len(self.data.dev[task.name])}" for task in self.tasks
        )
        self.say(f"data       {config.data}: {sizes} (train/dev examples)")
        self.kernels = resolve_kernels(
            config.kernels,
            config.self_check,
            precision,
            lambda: shapes_of_run(
                config,
                pretrained.encoder,
                self.data.train,
                [*self.data.dev.values(), *self.data.test.values()],
                precision,
            ),
            self.say,
        )
        self.say(f"kernels    {self.kernels}")
        graphs, reason = choose_graphs(config, precision.device)
        if precision.device.type == "cuda":
            self.say(f"graphs     {reason}")
        self.model = build_model(config, self.tasks, pretrained.encoder, precision)
        self.optimizer = build_optimizer(config, self.model, precision)
        self.trainer = Trainer(
            config, self.model, self.optimizer, self.data.train, precision.device, graphs=graphs, say=self.say
        )
        self.digests = self.data.digests()
        if folder.resumed:
            self.progress = load_state(self.directory, self.optimizer, self.digests)
        else:
            self.progress, self.directory = Progress(), folder.claim()
            with replacing(self.directory / CONFIG_FILE) as beside:
                self.config.write(beside)
            with replacing(self.directory / TASKS_FILE) as beside:
                write_tasks(beside, self.tasks)
        self.log = MetricsLog(self.directory, keep=self.progress.log_bytes)
        self.earlier_seconds = self.progress.seconds
        self._logged: tuple[LoggedStep, float] | None = None  # with the examples a second at that time

    def train(self) -> None:
        """Train from where the run stands to its end, then write what it leaves."""
        trainer, progress = self.trainer, self.progress
        display = ProgressDisplay(
            self.console,
            epochs=-(-trainer.total_steps // trainer.sampler.steps_per_epoch),
            steps_per_epoch=trainer.sampler.steps_per_epoch,
            total_steps=trainer.total_steps,
        )
        with stop_on_signal() as stop:
            while progress.steps < trainer.total_steps and not stop.made:
                epoch, done = divmod(progress.steps, trainer.sampler.steps_per_epoch)
                display.begin_epoch(epoch, done)
                try:
                    self._train_epoch(epoch, done, display, stop)
                    if self._epoch_is_over():
                        display.show_scores(self._evaluate(epoch, display.reading))
                except _StoppedReading:
                    pass
                finally:
                    display.stop()
                self._save()
        self.log.close()
        if progress.steps < trainer.total_steps:
            self.say(f"stopped    after step {progress.steps}; go on with: --resume {self.directory}")
            raise KeyboardInterrupt
        self._finish()

    def _epoch_is_over(self) -> bool:
        steps = self.progress.steps
        return steps == self.trainer.total_steps or steps % self.trainer.sampler.steps_per_epoch == 0

    def _train_epoch(self, epoch: int, done: int, display: ProgressDisplay, stop: StopRequest) -> None:
        progress, config = self.progress, self.config
        began, examples = time.perf_counter(), 0

        def reading(what: str, total: int) -> OnRead:
            """On a CPU a frozen encoder reads for minutes, for which a stop does not wait."""
            show = display.reading(what, total)

            def on_read(count: int) -> None:
                show(count)
                if stop.made:
                    raise _StoppedReading

            return on_read

        for result in self.trainer.epoch(epoch, done, reading):
            progress.steps = result.step
            progress.examples += result.examples
            progress.tokens += result.tokens
            examples += result.examples
            display.advance()
            # Each epoch ends with a logged step, from which the summary has its seconds and conflicts.
            if result.step % config.log_every == 0 or self._epoch_is_over():
                self._show_logged(display)
                seconds = time.perf_counter() - began
                logged = LoggedStep(result, self.optimizer, progress.training_seconds + seconds)
                self._logged = logged, examples / seconds
            if self._logged and self._logged[0].ready():
                self._show_logged(display)
            # The end of an epoch is evaluated and saved by the caller. An evaluation is followed by a saved state, so
            # that a resumed run neither misses nor repeats it, and a stop waits for both.
            evaluates = config.evaluate_every and result.step % config.evaluate_every == 0
            if (evaluates or result.step % config.save_every == 0) and not self._epoch_is_over():
                self._show_logged(display)
                self._add_training_time(began)
                if evaluates:
                    display.show_scores(self._evaluate(epoch, display.reading))
                self._save()
                began, examples = time.perf_counter(), 0
            if stop.made:
                break
        self._show_logged(display)
        self._add_training_time(began)

    def _show_logged(self, display: ProgressDisplay) -> None:
        """Write and show the logged step whose numbers were still on their way."""
        if self._logged:
            entry = self._logged[0].entry()
            self.log.write(entry)
            display.show(entry, self._logged[1])
            self._logged = None

    def _add_training_time(self, began: float) -> None:
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize()
        self.progress.training_seconds += time.perf_counter() - began

    def _evaluate(self, epoch: int, reading: Reading) -> dict[str, dict[str, float]]:
        """Dev metrics of the averaged weights, which are kept where their sum is the best so far."""
        with self.optimizer.averaged():
            return self._evaluate_model(epoch, reading)

    def _evaluate_model(self, epoch: int, reading: Reading) -> dict[str, dict[str, float]]:
        device, kept = self.precision.device, self.trainer.kept
        on_read = reading("dev sets", sum(map(len, self.data.dev.values())))
        metrics, answers = evaluate(
            self.model,
            self.data.dev,
            device,
            choose_thresholds=True,
            gather_kept=kept.of(self.model, self.data.dev, device, on_read).gather if kept else None,
            on_read=None if kept else on_read,
        )
        thresholds = self.model.thresholds()
        entry = {"event": "evaluation", "step": self.progress.steps, "epoch": epoch, "dev": metrics}
        self.log.write(entry | ({"thresholds": thresholds} if thresholds else {}))
        total = dev_sum(metrics, self.tasks)
        if total > self.progress.best_sum:
            self.progress.best_sum, self.progress.best_step = total, self.progress.steps
            self.progress.best_dev = metrics
            best = self.directory / BEST
            best.mkdir(exist_ok=True)
            self.model.save(best / WEIGHTS_FILE)
            with replacing(best / CONFIG_FILE) as beside:
                self.model.encoder.config.write(beside)
            self.tokenizer.save(best)
            self._write_predictions("dev", self.data.dev, {name: own.predictions for name, own in answers.items()})
            for name, examples in self.data.dev_examples.items():
                path = self.directory / _mistakes_file(name)
                write_mistakes(path, self.data.dev[name].task, examples, answers[name], self.config.mistakes)
        return metrics

    def _write_predictions(
        self, split: str, sets: Mapping[str, TokenizedSplit], answers: Mapping[str, np.ndarray]
    ) -> None:
        for name, examples in sets.items():
            path = self.directory / _predictions_file(name, split)
            write_predictions(path, examples.task, examples.example_ids, answers[name])

    def _save(self) -> None:
        self.progress.seconds = self.earlier_seconds + time.perf_counter() - self.began
        self.progress.log_bytes = self.log.length
        save_state(self.directory, self.optimizer, self.progress, self.digests)

    def _finish(self) -> None:
        """Answer the test sets with the best model; write predictions, plot and summary.

        InputError where no model is the best, since every evaluation met numbers that are not finite.
        """
        if not self.progress.best_dev:
            raise InputError(
                f"{self.directory}: no evaluation gave finite metrics, so that no model is the best; expected a run "
                "that stays finite, as with a lower --learning-rate"
            )
        self.model.load(self.directory / BEST / WEIGHTS_FILE)
        with reading_bar(self.console) as reading:
            on_read = reading("test sets", sum(map(len, self.data.test.values())))
            answers = {
                name: predict(self.model, split, self.precision.device, on_read)
                for name, split in self.data.test.items()
            }
        self._write_predictions("test", self.data.test, answers)
        self.progress.seconds = self.earlier_seconds + time.perf_counter() - self.began
        summary = write_summary(
            self.directory,
            tasks=self.tasks,
            progress=self.progress,
            optimizer=self.optimizer,
            precision=self.precision,
            kernels=self.kernels,
            thresholds=self.model.thresholds(),
        )
        overall = "" if summary["overall"] is None else f"  overall {summary['overall']:.3f}"
        self.say(f"best       step {self.progress.best_step}: {score_line(self.progress.best_dev)}")
        self.say(f"           mean {summary['mean']:.3f}{overall}")
        self.say(
            f"speed      {summary['examples_per_second']:.0f} examples/s, {summary['tokens_per_second']:.0f} tokens/s; "
            f"{self.progress.seconds:.0f} s in all"
        )
        if summary["skipped_steps"]:
            self.say(f"skipped    {summary['skipped_steps']} of {self.progress.steps} steps: gradients were not finite")
        self._draw()
        self.say(f"written    {self.directory}")

    def _draw(self) -> None:
        try:
            from concord.train.outputs.plots import plot_conflicts, plot_curves
        except ImportError as error:  # a machine that only computes may lack it
            self.say(f"warning: no pictures are drawn ({error})")
            return
        plot_curves(self.directory)
        plot_conflicts(self.directory)

    def say(self, text: str) -> None:
        """Print one plain line."""
        say(self.console, text)


def files_before_state(tasks: Iterable[str]) -> list[str]:
    """What a run on `tasks` may have written when it has not saved a state yet: paths within its folder."""
    best = [f"{BEST}/{name}" for name in (WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)]
    answers = [name for task in tasks for name in (_predictions_file(task, "dev"), _mistakes_file(task))]
    return [CONFIG_FILE, TASKS_FILE, METRICS_FILE, STATE_FILE, *best, *answers]


def _check_tasks(tasks: Sequence[Task], path: Path) -> None:
    """InputError where `tasks` are not those that a run, which is to go on, has begun with: they lie at `path`."""
    kept = {task.name: asdict(task) for task in read_tasks(path)}
    for task in tasks:
        for name, value in asdict(task).items():
            before = kept.get(task.name, {}).get(name)
            if value != before:
                raise InputError(
                    f"task {task.name}: its {name} is {value!r}, but {before!r} where the run in {path.parent} began"
                )


def _predictions_file(task: str, split: str) -> str:
    return f"{task}-{split}-predictions.csv"


def _mistakes_file(task: str) -> str:
    return f"{task}-dev-mistakes.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; raises InputError for bad input."""
    given = build_parser().parse(arguments)
    console = RunConsole()
    folder = resumed_folder(given)
    if folder is None:
        config = config_from(given)
        folder = new_folder(given, f"{'-'.join(config.tasks)}-{config.surgery.replace(':', '.')}")
    else:
        config = RunConfig.read(folder.path / CONFIG_FILE)
        check_resumable(config, given, folder.path)
    tasks = run_tasks(config)
    if folder.resumed:
        _check_tasks(tasks, folder.path / TASKS_FILE)
    precision = choose_precision(config.device, config.amp)

    say(console, f"device     {precision.device_name}")
    say(console, f"precision  {precision.name} ({precision.reason})")
    choose_kernels(config.kernels, precision)  # so that what cannot be is said before anything is read
    say(console, f"surgery    {describe_surgery(config)}")
    choose_graphs(config, precision.device)
    for text in without_effect(config, [task.kind for task in tasks]):
        say(console, f"warning: {text}")
    run = Run(folder, config, tasks, console, precision)
    if folder.resumed:
        say(console, f"resumed    after step {run.progress.steps} of {run.trainer.total_steps}")
    run.train()


if __name__ == "__main__":
    sys.exit(run_command(main))
