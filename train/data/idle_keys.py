"""Keys of a task in tasks.toml that its data leave without effect: the run tells them before it begins."""

import re

from concord.train.data.tasks import Task
from concord.train.settings.definitions import TableSpec

_DELIMITED = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)


def idle_keys(spec: TableSpec, task: Task) -> list[str]:
    """One phrase for each kind of key that says nothing of the task; none where all have an effect."""
    ranges = {"low": spec.low is not None, "high": spec.high is not None}
    reading = {"delimiter": spec.delimiter, "quoting": spec.quoting, "header": spec.header is not None}
    # They are of its other files too, and the training set may be in another form than these.
    delimited = any(_DELIMITED.search(name) for name in (spec.train, spec.validation, spec.test))
    idle = (
        (ranges, task.kind != "regression", f"the labels are of kind {task.kind}"),
        (reading, not delimited, "no file is .csv or .tsv"),
    )
    return [
        f"without effect: {', '.join(key for key, is_given in given.items() if is_given)}, since {reason}"
        for given, without, reason in idle
        if without and any(given.values())
    ]
