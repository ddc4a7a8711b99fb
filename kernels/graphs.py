"""Work of the device recorded as a CUDA graph, whose replay is one launch."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Output = TypeVar("_Output")


def capture(
    function: Callable[[], _Output], stream: torch.cuda.Stream, pool: Any = None
) -> tuple[torch.cuda.CUDAGraph, _Output]:
    """`function` as a CUDA graph, and what it returned, which each replay writes anew.

    stream: to capture on, and the one that `function` has run on before: autograd runs each node of a backward on its
    forward's stream. pool: of memory, that graphs share; None for one of its own.
    Where the capture fails its error is raised, and the current stream and torch's random numbers are as they were.
    """
    current = torch.cuda.current_stream(stream.device)
    generator = torch.cuda.default_generators[stream.device.index]
    state = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            output = function()
    except Exception:
        # A failed capture leaves its stream as the current one, and the generator in its state of capturing.
        torch.cuda.set_stream(current)
        generator.graphsafe_set_state(state)
        raise
    return graph, output
