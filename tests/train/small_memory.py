"""A stand-in for a memory that is too small, and a launched run whose last rank has it: -m tests.train.small_memory."""

import os
import sys
from contextlib import contextmanager

import torch

from concord.bert.encoder import Encoder
from concord.train import run
from concord.train.command import run_command

LIMIT = "TOKENS_THAT_FIT"  # a variable of the launched run's environment


class _FullMemory(torch.autograd.Function):
    """Passes on what it is given, and runs out of memory in the backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.OutOfMemoryError("CUDA out of memory, as it were")


@contextmanager
def memory_for(tokens, *, backward=False):
    """Within this context training runs out of memory on batches of more tokens: in the forward, or in the middle of
    the backward, when a part of the gradients is written."""
    plain = Encoder.states

    def states(encoder, batch, *more, **named):
        if not torch.is_grad_enabled() or len(batch.ids) <= tokens:
            return plain(encoder, batch, *more, **named)
        if not backward:
            raise torch.OutOfMemoryError("CUDA out of memory, as it were\nand more lines")
        hook = encoder.layers[0].register_forward_hook(lambda module, inputs, out: _FullMemory.apply(out))
        try:
            return plain(encoder, batch, *more, **named)
        finally:
            hook.remove()

    Encoder.states = states
    try:
        yield
    finally:
        Encoder.states = plain


if __name__ == "__main__":
    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    with memory_for(int(os.environ[LIMIT]) if last else sys.maxsize):
        code = run_command(run.main, takes_ranks=True)
    sys.exit(code)
