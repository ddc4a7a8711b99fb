"""The literal algorithms of surgery, vector by vector in fp64, and a network on which tasks conflict."""

import torch
from torch import nn

from concord.kernels.surgery.rules import random_orders
from concord.train.surgery import GradVac, PCGrad
from tests.kernels.parity import DEVICE

SEED, BETA = 5, 0.1
OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
}


class Network(nn.Module):
    """Every task reaches the trunk, all but the first reach the adapter, each has a head, and none reaches the rest."""

    def __init__(self, tasks, adapter_dtype=torch.float32):
        super().__init__()
        self.trunk = nn.Linear(6, 8)
        self.adapter = nn.Linear(8, 8).to(adapter_dtype)
        self.heads = nn.ModuleList([nn.Linear(8, 1) for _ in range(tasks)])
        self.rest = nn.Linear(2, 2)

    def losses(self, batch):
        features = self.trunk(batch).tanh()
        adapted = features + self.adapter(features.to(self.adapter.weight.dtype)).float()
        predictions = [head(adapted if task else features) for task, head in enumerate(self.heads)]
        # Each task wants a direction of its own, so that they conflict.
        return [(y - batch[:, task : task + 1]).square().mean() for task, y in enumerate(predictions)]


def network(tasks=2, **more):
    torch.manual_seed(3)
    return Network(tasks, **more).to(DEVICE)


def batches(count):
    return torch.randn(count, 16, 6, generator=torch.Generator().manual_seed(4)).to(DEVICE)


def literal_pcgrad(vectors, orders, targets):
    """Algorithm 1 of Yu et al. (2020): the altered gradients."""
    altered = [vector.clone() for vector in vectors]
    for i, order in enumerate(orders):
        for j in order:
            if i != j and altered[i] @ vectors[j] < 0:
                altered[i] -= altered[i] @ vectors[j] / vectors[j].square().sum() * vectors[j]
    return altered


def literal_gradvac(vectors, orders, targets):
    """Algorithm 1 of Wang et al. (2021): the altered gradients; `targets` are updated."""
    altered = [vector.clone() for vector in vectors]
    for i, order in enumerate(orders):
        for j in order:
            if i == j:
                continue
            length, other = altered[i].norm(), vectors[j].norm()
            phi, target = altered[i] @ vectors[j] / (length * other), targets[i, j].clone()
            if phi < target:
                weight = target * (1 - phi**2).sqrt() - phi * (1 - target**2).sqrt()
                altered[i] += length * weight / (other * (1 - target**2).sqrt()) * vectors[j]
            targets[i, j] += BETA * (phi - target)
    return altered


class Literal:
    """The wrappers' semantics with vectors of all participating parameters, in fp64.

    A loss of None is an absent task's, which meets nobody, and is taken to reach what it has reached before.
    """

    def __init__(self, algorithm, parameters, tasks, scope, reduction):
        self.algorithm, self.parameters, self.scope, self.reduction = algorithm, list(parameters), scope, reduction
        self.targets = torch.zeros(tasks, tasks, dtype=torch.float64, device=DEVICE)
        self.calls, self.reach = 0, [[True] * len(self.parameters) for _ in range(tasks)]

    def own_gradients(self, loss):
        return torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)

    def gradients(self, losses):
        """The merged gradient of each parameter, None where no loss reaches it."""
        self.calls += 1
        tasks, nothing = len(losses), [None] * len(self.parameters)
        found = [
            nothing
            if loss is None
            else torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            for loss in losses
        ]
        for task, own in enumerate(found):
            if losses[task] is not None:
                self.reach[task] = [gradient is not None for gradient in own]
        shared = [all(reach[index] for reach in self.reach) for index in range(len(self.parameters))]
        full = [
            [
                torch.zeros_like(p).double() if g is None else g.double()
                for g, p in zip(own, self.parameters, strict=True)
            ]
            for own in found
        ]
        chosen = [index for index in range(len(self.parameters)) if shared[index] or self.scope == "all"]
        vectors = [torch.cat([own[index].flatten() for index in chosen]) for own in full]
        orders = random_orders(torch.tensor((SEED << 32) + self.calls), tasks).tolist()
        there = [task for task, loss in enumerate(losses) if loss is not None]
        orders = [[j for j in order if i in there and j in there] for i, order in enumerate(orders)]
        altered = self.algorithm(vectors, orders, self.targets)
        for own, vector in zip(full, altered, strict=True):
            parts = vector.split([own[index].numel() for index in chosen])
            for index, part in zip(chosen, parts, strict=True):
                own[index] = part.view_as(own[index])
        merged = []
        for index, parameter in enumerate(self.parameters):
            total = sum(own[index] for own in full)
            if shared[index] and self.reduction == "mean":
                total = total / tasks
            reached = any(own[index] is not None for own in found)
            merged.append(total.to(parameter.dtype) if reached else None)
        return merged


def wrapped(method, model, optimizer="sgd", **options):
    more = {"beta": BETA} if method is GradVac else {}
    options = {"allow_unused": True, **options}
    return method(OPTIMIZERS[optimizer](model.parameters()), seed=SEED, **more, **options)


def literal(method, model, tasks=2, scope="shared", reduction="mean"):
    algorithm = literal_pcgrad if method is PCGrad else literal_gradvac
    return Literal(algorithm, model.parameters(), tasks, scope, reduction)


def train_on(surgery, model, batch):
    surgery.zero_grad()
    surgery.pc_backward(model.losses(batch))
    surgery.step()


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
