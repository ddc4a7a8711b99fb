"""Whether every op of an encoder deposits one gradient a task: asked once, after a run's first backward."""

from collections.abc import Mapping

from torch import nn


def check_deposits(parameters: Mapping[str, nn.Parameter]) -> None:
    """RuntimeError that names the first of the shared parameters which autograd has given an ordinary gradient.

    That is the sum over all tasks, and nothing reads it: a layer of plain torch in an encoder would look like a part of
    the model and never be trained. Nothing is read from the device.

    parameters: name -> parameter, all that have one gradient a task.
    """
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            raise RuntimeError(
                f"parameter {name}: autograd gave it a gradient of its own, which no step reads, so it would never "
                "be trained; expected an op that deposits one gradient a task, as those of concord.kernels do"
            )
