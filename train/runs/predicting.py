"""What a run's best model answers to the user's own texts: typed, in a file, or from the standard input."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from concord.bert.errors import InputError, did_you_mean
from concord.train.data.course import read_plain_input
from concord.train.data.decoded import read_text, split_lines
from concord.train.data.sources import data_files
from concord.train.data.table import column_key, open_text
from concord.train.data.tables import read_plain_table
from concord.train.data.tasks import Example, Task
from concord.train.outputs.named_output import check_output, is_standard, write_named
from concord.train.outputs.names import BEST
from concord.train.outputs.predictions import answers_text, form_of
from concord.train.outputs.saved_run import load_run
from concord.train.reporter import Reporter
from concord.train.runs.loaded import LoadedRun, answers_of
from concord.train.steps.evaluation import ScoredAnswers

_ALSO_DELIMITERS = (",", ";", "|")
_JSON = rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff|\x00\x00\xfe\xff)?[\s\x00]*\{"  # how it begins, behind a byte order mark too
_TABLES = (".jsonl", ".jsonl.gz", ".parquet")  # which are in no course's layout


def predict_texts(
    directory: Path,
    reporter: Reporter,
    *,
    device: str,
    amp: str,
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    source: Path,
    columns: tuple[str, ...],
    output: Path,
    scores: bool,
) -> None:
    """Write the answers of the best model of the run in `directory`, a row for each of the input's, in its order.

    names: of the run's tasks; none where it has one. texts: the rows, each a text or the two of a pair; none where they
    are in the file `source`, or come from the standard input where that is "-". columns: where the texts stand in it,
    () for where they stood in the data. output: "-" is the standard output; scores: whether each label's are written
    too. Tasks of single texts that stand in one column share one pass of the encoder.

    InputError for an unknown task, for rows that cannot be used, where something would be lost by writing to `output`,
    see `check_output`, and as `load_run` raises it.
    """
    form = form_of(output)
    given = [] if texts or is_standard(source) else [source]
    check_output(output, [*given, *directory.glob("*"), *(directory / BEST).glob("*")])
    saved = load_run(directory, device, reporter, amp)
    run = LoadedRun(saved, tuple(saved.tasks), reporter)
    tasks = [_placed(task, columns) for task in _chosen(directory, run, names)]
    check_output(output, [*data_files(saved.config.data), *Path(saved.config.model.name).glob("*")])
    if texts:
        rows = {task.name: _typed(task, texts) for task in tasks}
    else:
        with _file(source) as path:
            rows = {task.name: _read(task, path, reporter) for task in tasks}
    empty = sum(not (one.first and (one.second or not task.pair)) for task in tasks for one in rows[task.name])
    if empty:
        reporter.warn(f"{empty} rows lack a sentence; they are answered as empty texts")
    answers: dict[str, ScoredAnswers] = {}
    for group in _groups(tasks, apart=saved.model.pals is not None):
        answers |= answers_of(run, group, rows[group[0].name])
    examples = rows[tasks[0].name]
    written = [(task, answers[task.name].predictions, answers[task.name].scores) for task in tasks]
    write_named(output, answers_text([one.id for one in examples], written, form=form, scores=scores))
    if not is_standard(output):
        reporter.say(f"{len(examples)} predictions of {', '.join(answers)} written to {output}")


def _chosen(directory: Path, run: LoadedRun, names: Sequence[str]) -> list[Task]:
    known = {task.name: task for task in run.tasks}
    if not names and len(known) > 1:
        raise InputError(f"--task is missing: the run in {directory} was trained on {', '.join(known)}")
    for position, name in enumerate(names):
        if name not in known:
            raise InputError(
                f"--task {name}: the run in {directory} was not trained on it, {did_you_mean(name, known)}"
            )
        if name in names[:position]:
            raise InputError(f"--task {name}: given twice, expected each task once")
    return [known[name] for name in names or known]


def _placed(task: Task, columns: tuple[str, ...]) -> Task:
    """The task with other text columns, where some are given. Names need a header; where they are numbers, the file has
    one or none as the training set has."""
    if columns and len(columns) != 1 + task.pair:
        expected = "two columns" if task.pair else "one column"
        raise InputError(f"--text-column {','.join(columns)}: task {task.name} reads {expected}")
    if not columns:
        return task
    numbers = all(column.isdecimal() for column in columns)
    return replace(task, text_columns=columns, header=task.header if numbers else None)


def _groups(tasks: Sequence[Task], *, apart: bool) -> Iterator[list[Task]]:
    """Tasks that one pass of the encoder answers: those of single texts in the same column, unless all are `apart`."""
    together: dict[object, list[Task]] = {}
    for task in tasks:
        together.setdefault(task.name if task.pair or apart else task.text_columns, []).append(task)
    yield from together.values()


def _typed(task: Task, texts: Sequence[Sequence[str]]) -> list[Example]:
    for row in texts:
        if len(row) != 1 + task.pair:
            expected = "the two texts of a pair" if task.pair else "one text, in quotes if it has spaces"
            raise InputError(f"--text {' '.join(row)}: {len(row)} texts, task {task.name} reads {expected}")
    return [
        Example(str(number), row[0].strip(), row[1].strip() if task.pair else None, None)
        for number, row in enumerate(texts, 1)
    ]


@contextmanager
def _file(source: Path) -> Iterator[Path]:
    """The file with the input: of the standard input, a copy whose name says what its first bytes look like, and which
    an InputError within this context calls by what it is."""
    if not is_standard(source):
        yield source
        return
    if sys.stdin is None:
        raise InputError("--input -: there is no standard input, expected a file")
    with TemporaryDirectory() as folder:
        content = sys.stdin.buffer.read()
        suffix = ".jsonl" if re.match(_JSON, content) else ".csv"
        path = Path(folder) / f"standard-input{'.parquet' if content[:4] == b'PAR1' else suffix}"
        path.write_bytes(content)
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(str(path), "standard input")) from None


def _read(task: Task, path: Path, reporter: Reporter) -> list[Example]:
    """The rows of a file of any form, or in the course's layout where it has that task's columns between tabs; the
    reporter is told what was guessed."""
    if task.table or path.name.lower().endswith(_TABLES):
        return read_plain_table(task, path, reporter)
    header = split_lines(read_text(path, "rows with a header"))[0]
    wanted = set(map(column_key, task.text_columns))
    by_tabs = wanted <= set(map(column_key, header.split("\t")))
    if by_tabs or not any(sign in header for sign in _ALSO_DELIMITERS):
        return read_plain_input(task, path)
    found = open_text(path, task.text_columns, answered=True).columns
    is_table = wanted <= set(map(column_key, found))
    return read_plain_table(task, path, reporter) if is_table else read_plain_input(task, path)
