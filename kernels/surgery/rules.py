"""Surgery in the Gram matrix: from T x T dot products of the task gradients to one coefficient a task.

PCGrad (Yu et al., 2020, Algorithm 1) and GradVac (Wang et al., 2021, Algorithm 1) need no more of the gradients than
their dot products. Row i's running gradient is kept as coefficients a over the originals, from a = e_i; it meets every
other task j in random order, with d = a . G[:, j]:

    PCGrad    where d < 0:  a[j] -= d / G[j, j]
    GradVac   with phi = d / (|a| |g_j|) and its target p, where phi < p:
              a[j] += |a| (p sqrt(1 - phi^2) - phi sqrt(1 - p^2)) / (|g_j| sqrt(1 - p^2))
              and in any case  p += beta (phi - p)

The merged gradient is that of the coefficients c = sum_i a_i. Rows meet original gradients only, so they advance
together.
"""

import torch
from torch import Tensor

from concord.kernels.dropout import philox

MOST_TASKS = 16  # that the kernels take; the expressions of torch here take any number
ORDERS_SITE = 0x7FFFFFFF  # the site of the orders' random numbers: no dropout has it


def random_orders(seed: Tensor, tasks: int) -> Tensor:
    """A fresh random order of the tasks for each of them: int64 [T, T], each row a permutation, on the seed's device.

    seed: int64 scalar, one a step. Row i sorts the tasks by random numbers of its own; equal ones by the task.
    """
    width = max(tasks, MOST_TASKS)
    counters = torch.arange(tasks * width, device=seed.device)
    return philox(seed, counters, ORDERS_SITE)[0].view(tasks, width)[:, :tasks].argsort(dim=1, stable=True)


def surgery_coefficients(
    gram: Tensor, orders: Tensor, method: str, targets: Tensor | None = None, beta: float = 0.01
) -> tuple[Tensor, Tensor | None]:
    """Each group's coefficients, fp64 [groups, T], and GradVac's new targets [groups, T, T] (None for others).

    gram: fp64 [groups, T, T]; orders: int64 [T, T], row i a permutation of the tasks, in which row i meets them (its
    own place is passed over); method: none, pcgrad or gradvac; targets: fp64 [groups, T, T], needed by gradvac. A zero
    gradient conflicts with nothing, and leaves the targets as they are. ValueError for another method, and for gradvac
    without targets.
    """
    if method not in ("none", "pcgrad", "gradvac"):
        raise ValueError(f"method {method!r}: expected one of none, pcgrad, gradvac")
    if method == "gradvac" and targets is None:
        raise ValueError("method 'gradvac': expected targets")
    groups, tasks, _ = gram.shape
    if method == "none":
        return torch.ones(groups, tasks, dtype=gram.dtype, device=gram.device), targets
    own = torch.arange(tasks, device=gram.device)
    running = torch.eye(tasks, dtype=gram.dtype, device=gram.device).repeat(groups, 1, 1)
    squares = gram.diagonal(dim1=1, dim2=2)
    length = squares.clone()
    if targets is not None:
        targets = targets.clone()
    for others in orders.t():
        dot = (running * gram[:, others]).sum(2)
        square = squares[:, others]
        if method == "pcgrad":
            conflict = (dot < 0) & (square > 0) & (others != own)
            change = torch.where(conflict, -dot / torch.where(conflict, square, 1.0), 0.0)
        elif method == "gradvac":
            product = (length * square).sqrt()
            meets = (product > 0) & (others != own)
            phi = torch.where(meets, dot / torch.where(meets, product, 1.0), 0.0).clamp(-1, 1)
            target = targets[:, own, others]
            root = (1 - target * target).clamp_min(1e-12).sqrt()
            grown = (length / torch.where(meets, square, 1.0)).sqrt() * (target * (1 - phi * phi).sqrt() / root - phi)
            change = torch.where(meets & (phi < target), grown, 0.0)
            length = (length + 2 * change * dot + change * change * square).clamp_min(0)
            targets[:, own, others] += torch.where(meets, beta * (phi - target), 0.0)
        running[:, own, others] += change
    return running.sum(1), targets


def cosines(gram: Tensor) -> Tensor:
    """The cosine of each pair of task gradients, fp64 [..., T, T]; 0 where one of them is zero."""
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    products = norms.unsqueeze(-1) * norms.unsqueeze(-2)
    return torch.where(products > 0, gram / torch.where(products > 0, products, 1.0), 0.0)
