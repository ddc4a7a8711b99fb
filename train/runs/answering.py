"""What a run's best model answers to the dev sets, and how well."""

from dataclasses import replace
from pathlib import Path

from concord.train.data.datasets import load_datasets, with_data
from concord.train.objectives.metrics import check_metrics, overall
from concord.train.objectives.undefined import weak_answers, weak_labels
from concord.train.outputs.saved_run import load_run
from concord.train.outputs.summary import score_line
from concord.train.reporter import Reporter
from concord.train.steps.evaluation import evaluate


def evaluate_run(
    directory: Path, reporter: Reporter, *, device: str, data: str | None, dev_examples: int, skip_bad_rows: bool
) -> dict[str, dict[str, float | None]]:
    """Say the dev metrics of every task of the run in `directory`, and return them: task -> name -> value, None where
    it is undefined.

    data: what is read instead of the run's own data, None for those; dev_examples: how many of each task, 0 for all;
    skip_bad_rows: whether rows that cannot be used are skipped, as they are in any case where the run did. InputError
    as `load_run` and `load_datasets` raise it.
    """
    saved = load_run(directory, device, reporter)
    check_metrics(saved.tasks)
    config = saved.config.data
    if data:
        config = with_data(config, data, saved.tasks)
    config = replace(
        config,
        dev_examples=dev_examples,
        skip_bad_rows=skip_bad_rows or config.skip_bad_rows,
    )
    datasets = load_datasets(
        config,
        saved.tasks,
        saved.tokenizer,
        None,
        reporter,
        splits=("dev",),
    )
    reporter.say(f"device     {saved.precision.device_name}, {saved.precision.name} ({saved.precision.reason})")
    reporter.say(f"kernels    {saved.kernels}")
    if saved.products:
        reporter.say(f"products   {saved.products}")
    sizes = ", ".join(f"{name} {len(split)}" for name, split in datasets.dev.items())
    reporter.say(f"data       {config.source}: {sizes} (dev examples)")
    with reporter.reading("dev sets", sum(map(len, datasets.dev.values()))):
        metrics, answers = evaluate(saved.model, datasets.dev, saved.precision.device, reporter=reporter)
    for name, split in datasets.dev.items():
        own = answers[name]
        for problem in (
            weak_labels(split.task, "dev", split.labels),
            weak_answers(split.task, own.predictions, own.errors),
        ):
            if problem:
                reporter.warn(problem)
    reporter.say(f"dev        {score_line(metrics)}")
    for name, threshold in saved.model.thresholds().items():
        reporter.say(f"           {name} is 1 above {threshold:.3f}, as was best on the dev set in training")
    score, mean = overall(metrics, saved.tasks)
    reporter.say(f"           mean {mean:.3f}" + ("" if score is None else f"  overall {score:.3f}"))
    return metrics
