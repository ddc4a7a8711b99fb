"""A run's best model, exported: read, written beside in one of the formats, checked, and renamed into place."""

from collections.abc import Callable, Sequence
from pathlib import Path

from concord.bert.errors import InputError, did_you_mean
from concord.bert.files import building
from concord.train.data.tasks import Task
from concord.train.exports.card import write_card
from concord.train.exports.formats import FORMATS, Format
from concord.train.exports.request import Request, Written
from concord.train.outputs.saved_run import load_run
from concord.train.reporter import Reporter
from concord.train.reports.stored_run import read_run


def export_run(
    directory: Path,
    reporter: Reporter,
    *,
    form: str,
    names: Sequence[str],
    output: Path,
    eight_bit: bool,
    data: str,
    examples: int,
) -> None:
    """Write the best model of the run in `directory` into the folder `output`, in the format called `form`.

    names: of the run's tasks; none for what the format then takes. eight_bit: whether weights become 8-bit integers.
    data: where the dev sets are read that a format compares on, "" for the run's own; examples: at most so many of each
    are, evenly spaced; 0 for all. The model is written in fp32, whatever the run computed in.

    InputError where the format cannot give the task's answers exactly, for an unknown task or format, for an `output`
    that is there already, and as `load_run` raises it.
    """
    entry = FORMATS.entry(form)
    if eight_bit and not entry.eight_bit:
        holds = " or ".join(f"--format {one.name}" for one in FORMATS if one.eight_bit)
        raise InputError(f"--int8: --format {form} has no weights of 8 bits, expected {holds}")
    _check_output(output)
    write = _resolve(entry)
    saved = load_run(directory, "cpu", reporter, "off")
    tasks = _chosen(directory, saved.tasks, names, entry)
    if saved.model.pals is not None:
        raise InputError(
            f"{directory}: its projected attention (--pals) is in no other library; expected a run without; "
            "concord.load and train.predict have it"
        )
    with building(output) as folder:
        saved.tokenizer.save(folder, saved.config.data.max_length)
        request = Request(saved, tasks, folder, reporter, eight_bit=eight_bit, data=data, examples=examples)
        written = write(request)
        write_card(folder, read_run(directory), written, name=output.name, about=[_about(saved.tasks, tasks, written)])
    for remark in written.remarks:
        reporter.warn(remark)
    what = ", ".join(task.name for task in tasks) or entry.without_task
    reporter.say(f"exported   {what} to {output}, for {written.library}")


def _about(trained: Sequence[Task], tasks: Sequence[Task], written: Written) -> str:
    what = f"the answers of {', '.join(task.name for task in tasks)}" if tasks else "the embeddings"
    several = " on several tasks at once" if len(trained) > 1 else ""
    return f"A model that Concord has trained{several}, exported for {written.library}: {what}."


def _check_output(output: Path) -> None:
    if output.is_dir() and not output.is_symlink():
        if any(output.iterdir()):
            raise InputError(f"--output {output}: not empty, expected a new folder")
    elif output.is_symlink() or output.exists():
        raise InputError(f"--output {output}: a file or a link, expected a new folder")


def _resolve(entry: Format) -> Callable[[Request], Written]:
    try:
        return FORMATS.resolve(entry.name)
    except ImportError as error:
        if not entry.extra:
            raise
        raise InputError(
            f"--format {entry.name}: {error.name} is not installed; run: pip install 'concord-bert[{entry.extra}]'"
        ) from None


def _chosen(directory: Path, tasks: Sequence[Task], names: Sequence[str], entry: Format) -> tuple[Task, ...]:
    """The tasks that are named, in the run's order, or those that no name stands for."""
    known = {task.name: task for task in tasks}
    for name in names:
        if name not in known:
            raise InputError(
                f"--task {name}: the run in {directory} was not trained on it, {did_you_mean(name, known)}"
            )
    if entry.without_task == "all tasks":
        return tuple(task for task in tasks if not names or task.name in names)
    if len(names) > 1:
        raise InputError(f"--task {','.join(names)}: --format {entry.name} holds one task, expected one")
    if names:
        return (known[names[0]],)
    if entry.without_task == "the embeddings":
        return ()
    if len(tasks) > 1:
        raise InputError(f"--task is missing: the run in {directory} was trained on {', '.join(known)}")
    return (tasks[0],)
