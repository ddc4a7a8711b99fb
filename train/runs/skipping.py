"""The end of a run that cannot learn: every step is skipped, since gradients are not finite, and so it would go on."""

from collections.abc import Sequence
from pathlib import Path

from concord.bert.errors import InputError
from concord.train.outputs.log import MOST_SKIPPED

_SMALLEST_SCALE = 1.0  # of the loss, below which nothing overflows that would not without any scale


def check_learns(
    directory: Path, tasks: Sequence[str], skipped_in_row: Sequence[int], loss_scale: float, *, scaling: bool
) -> None:
    """InputError where the run in `directory` has skipped `MOST_SKIPPED` steps in a row and no loss scale can still
    adapt.

    skipped_in_row: as in `kernels.surgery.plan.SurgeryState`, of `tasks`; loss_scale: that the last step has left;
    scaling: whether it adapts.
    """
    if skipped_in_row[0] < MOST_SKIPPED or (scaling and loss_scale >= _SMALLEST_SCALE):
        return
    raise InputError(
        f"{directory}: {describe(tasks, skipped_in_row)}; expected a run that stays finite, as with a lower "
        f"--learning-rate{', or with --amp off' if scaling else ''}"
    )


def describe(tasks: Sequence[str], skipped_in_row: Sequence[int]) -> str:
    """In words what the last steps were skipped for."""
    skipped, first, task = skipped_in_row
    return (
        f"the gradient of task {tasks[task]} was not finite in step {first}, and nothing was learned in the "
        f"{skipped} steps from there on"
    )
