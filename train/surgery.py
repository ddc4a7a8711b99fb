"""Gradient surgery in the Gram matrix: from T x T dot products to one coefficient a task.

The merged gradient is `coefficients @ gradients`. Row i's running gradient is kept as coefficients over the original
gradients, so that no parameter-sized vector is touched until the optimizer's own pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Rule = Callable[[Tensor, Tensor], Tensor]


def sum_coefficients(gram: Tensor, orders: Tensor) -> Tensor:
    """No surgery: the sum of the task gradients. fp64 ones [T]; `orders` plays no part."""
    return torch.ones_like(gram[0])


def pcgrad_coefficients(gram: Tensor, orders: Tensor) -> Tensor:
    """PCGrad (Yu et al., 2020, Algorithm 1): the sum of the projected task gradients, as coefficients.

    Starting from a = e_i, for every other task j in random order: d = a . G[:, j]; where d < 0, a[j] -= d / G[j, j].
    The result is the sum of the rows a. Each row meets the original gradients only, so all rows advance together.

    gram: fp64 [T, T]; orders: int64 [T, T], row i a permutation of the tasks, in which row i meets them (its own place
    is passed over). Returns fp64 [T]. A zero gradient conflicts with nothing.
    """
    tasks = gram.shape[0]
    running = torch.eye(tasks, dtype=gram.dtype, device=gram.device)
    own = torch.arange(tasks, device=gram.device)
    for others in orders.t():
        dot = (running * gram[others]).sum(1)
        square = gram[others, others]
        conflict = (dot < 0) & (square > 0) & (others != own)
        step = torch.where(conflict, dot / torch.where(conflict, square, 1.0), 0.0)
        running[own, others] -= step
    return running.sum(0)


def random_orders(tasks: int, seed: int) -> Tensor:
    """A fresh random order of the tasks for each of them: int64 [T, T] on the CPU, each row a permutation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tasks, generator=generator) for _ in range(tasks)])


def cosines(gram: Tensor) -> Tensor:
    """The cosine of each pair of task gradients, fp64 [..., T, T]; 0 where one of them is zero."""
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    products = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    return torch.where(products > 0, gram / torch.where(products > 0, products, 1.0), 0.0)


RULES: dict[str, Rule] = {"none": sum_coefficients, "pcgrad": pcgrad_coefficients}
