"""The data sets of a run: read or generated, checked, tokenised and cached."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import is_folder
from concord.bert.tokenizer import Tokenizer
from concord.train.data.course import name_bad_rows
from concord.train.data.sources import open_source
from concord.train.data.splits import evenly_spaced
from concord.train.data.tasks import Example, Task
from concord.train.data.tokenized import TokenCache, TokenizedSplit, tokenize_split
from concord.train.reporter import SILENT, Reporter
from concord.train.settings.definitions import TableSpec, is_saved_folder, is_table_name
from concord.train.settings.parts import DataConfig

SPLITS = ("train", "dev", "test")
_SHOWN = 20  # bad rows that the warning names one by one


@dataclass(frozen=True)
class Datasets:
    """The sets of a run, each task -> its set, in the order of the run's tasks.

    Attributes:
        train: tokenised training sets.
        dev: tokenised dev sets.
        test: tokenised test sets; tasks without one are missing.
        dev_examples: the texts and labels that the dev sets were made of.
        held_out: the places of the rows of dev sets that are held out of training sets; other tasks are missing.
    """

    train: dict[str, TokenizedSplit]
    dev: dict[str, TokenizedSplit]
    test: dict[str, TokenizedSplit]
    dev_examples: dict[str, list[Example]]
    held_out: dict[str, list[str]] = field(default_factory=dict)

    def sizes(self) -> dict[str, dict[str, int]]:
        """Task -> "train" and "dev" -> how many examples that set has."""
        return {name: {"train": len(own), "dev": len(self.dev[name])} for name, own in self.train.items()}

    def digests(self) -> dict[str, str]:
        """What the training and the choice of the best model depend on: a set's task and split -> its digest."""
        sets = {"train": self.train, "dev": self.dev}
        return {f"{task} {name}": split.digest for name, own in sets.items() for task, split in own.items()}


def run_tasks(config: DataConfig) -> list[Task]:
    """The tasks that a run names; InputError for an unknown one, or data that is no folder."""
    return open_source(config.source, config.table).tasks(config.tasks)


def load_datasets(
    config: DataConfig,
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    cache: Path | None,
    reporter: Reporter,
    *,
    splits: Sequence[str] = SPLITS,
) -> Datasets:
    """Read and tokenise the wanted splits of every task.

    cache: folder of tokenised sets, None for no cache (nor is a folder that cannot be written one);
    reporter: is warned of rows that are skipped or cut.
    Raises InputError as the source's `read` does.
    """
    source = open_source(config.source, config.table)
    read: dict[str, dict[str, list[Example]]] = {split: {} for split in SPLITS}
    bad_rows: list[str] = []
    held_out: dict[str, list[str]] = {}
    for task in tasks:
        for split in splits:
            if split == "test" and config.skip_test:
                continue
            found = source.read(task, split, skip_bad_rows=config.skip_bad_rows)
            if found is not None:
                read[split][task.name] = found.examples
                bad_rows += found.bad_rows
                for note in found.notes:
                    reporter.say(f"{task.name:<10} {note}")
                if found.held_out is not None:
                    held_out[task.name] = found.held_out
        if config.dev_examples and task.name in read["dev"]:
            read["dev"][task.name] = evenly_spaced(read["dev"][task.name], config.dev_examples)
    if bad_rows:
        reporter.warn(f"skipped {name_bad_rows(bad_rows, _SHOWN)}")
    tokenized: dict[str, dict[str, TokenizedSplit]] = {split: {} for split in SPLITS}
    kept = TokenCache(cache, reporter) if cache else None
    for split in splits:
        for task in tasks:
            if task.name in read[split]:
                tokenized[split][task.name] = tokenize(config, task, read[split][task.name], tokenizer, kept, reporter)
                cut = tokenized[split][task.name].truncated
                if cut:
                    reporter.warn(
                        f"{task.name} {split}: {cut} examples were longer than {config.max_length} wordpieces and cut"
                    )
    return Datasets(**tokenized, dev_examples=read["dev"], held_out=held_out)


def tokenize(
    config: DataConfig,
    task: Task,
    examples: list[Example],
    tokenizer: Tokenizer,
    cache: TokenCache | None,
    reporter: Reporter = SILENT,
) -> TokenizedSplit:
    """Tokenise examples as the run does; see `tokenize_split`."""
    return tokenize_split(
        task,
        examples,
        tokenizer,
        pair_encoding=config.pair_encoding[task.name],
        max_length=config.max_length,
        cache=cache,
        reporter=reporter,
    )


def with_data(config: DataConfig, data: str, tasks: Sequence[Task]) -> DataConfig:
    """The settings with other data, that --data names; a file of rows is the dev set of the only task. InputError for
    such a file where there are several tasks, or a task is in the course's layout."""
    path = Path(data)
    if not (is_saved_folder(path) or (is_table_name(path.name) and not is_folder(path))):
        return replace(config, source=data, table=None)
    names = [task.name for task in tasks]
    if len(tasks) != 1 or not tasks[0].table:
        raise InputError(
            f"--data {data}: a file of rows, which is for a run on one table; the run has {', '.join(names)}, "
            "expected a tasks.toml or a folder"
        )
    (task,) = tasks
    spec = TableSpec(
        name=task.name,
        train="",
        validation=data,
        text_columns=task.text_columns,
        label_column=task.label_column,
        delimiter=task.delimiter,
        quoting=task.quoting,
        header=task.header,
        kept=True,
        named_by=f"--data {data}",
    )
    return replace(config, source=data, table=spec)
