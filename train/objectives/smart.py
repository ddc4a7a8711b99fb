"""SMART's regulariser (Jiang et al., 2020): outputs that barely move under adversarial noise on the embeddings.

    R = mean_i d(f(x_i + r_i), f(x_i)),   r = eta g / (|g|_inf + epsilon),   g = gradient of d(f(x + n), f(x)) in n

with x the embeddings' output, n normal with deviation sigma, and |.|_inf over each token's elements. d is the symmetric
Kullback-Leibler divergence of classes' or a yes-or-no's probabilities, and the squared difference of scores as shares
of the range. The one step of ascent, its normalisation and its constants are those of the authors' own code; here d is
symmetric in g too. As there, each pass draws its own dropouts; in bf16 and fp16, which cannot hold n beside x, they
alone tell the passes apart in g.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.bert.batch import PackedBatch
from concord.bert.heads import Link
from concord.bert.multitask import MultitaskModel, TaskOutput
from concord.kernels.dropout import DropoutStream, philox
from concord.kernels.layout.rows import without_deposits
from concord.train.data.tasks import Task
from concord.train.objectives.answers import answers_as_shares
from concord.train.objectives.objectives import Objective

_SIGMA, _ETA, _EPSILON = 1e-5, 1e-3, 1e-6


@dataclass(frozen=True)
class Smoothness:
    """Computes the regulariser, times the smoothness and the fixed weight of each task's objective.

    Attributes:
        model: whose outputs are to be smooth.
        objectives: task -> its objective.
    """

    model: MultitaskModel
    objectives: Mapping[str, Objective]

    def __call__(
        self,
        batch: PackedBatch,
        clean: Mapping[str, TaskOutput],
        examples: Mapping[str, int],
        dropouts: DropoutStream,
        loss_scale: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The regulariser of a micro-batch twice, fp32 scalars: its gradient is the sum of both gradients.

        Through the first it reaches the weights by way of `clean`, through the second by way of the pass with noise. A
        weight's task gradients are deposited by one pass at a time, and the second backward adds to what the first has
        written: it must follow it.

        batch: the sequences of the tasks that have the regulariser, whose backward adds to the task gradients; clean:
        the model's outputs for the whole micro-batch; examples: task -> how many the whole step holds; loss_scale: fp32
        scalar, by which gradients in fp16 are kept in range.
        """
        noise = normal_numbers(dropouts, (len(batch.ids), self.model.encoder.config.hidden_size)) * _SIGMA
        with without_deposits(), _frozen(self.model):
            noise.requires_grad_()
            outputs = self.model(batch, dropouts, noise=noise)
            fixed = {task: clean[task].logits.detach() for task in outputs}
            parts = [self._divergences(task, output.logits, fixed[task]).sum() for task, output in outputs.items()]
            (gradient,) = torch.autograd.grad(torch.stack(parts).sum() * loss_scale, noise)
        noise = ascend(gradient / loss_scale)
        moved = self.model(batch, dropouts, noise=noise)
        through_clean, through_moved = [], []
        for task, output in moved.items():
            objective = self.objectives[task]
            factor = objective.smoothness * objective.weight / examples[task]
            logits, moved_logits = clean[task].logits, output.logits
            through_clean.append(self._divergences(task, logits, moved_logits.detach()).sum() * factor)
            through_moved.append(self._divergences(task, fixed[task], moved_logits).sum() * factor)
        return torch.stack(through_clean).sum(), torch.stack(through_moved).sum()

    def _divergences(self, task: str, first: Tensor, second: Tensor) -> Tensor:
        return divergences(self.objectives[task].task, self.model.heads[task].link, first, second)


def ascend(gradient: Tensor) -> Tensor:
    """The adversarial noise, [tokens, hidden]: a step along the gradient, divided by each token's largest element."""
    return _ETA * gradient / (gradient.abs().amax(1, keepdim=True) + _EPSILON)


def divergences(task: Task, link: Link, first: Tensor, second: Tensor) -> Tensor:
    """How far two answers to each example are apart, fp32 [examples], symmetric; from logits [examples, outputs]."""
    if link == "softmax":
        first, second = first.log_softmax(1), second.log_softmax(1)
        return ((first.exp() - second.exp()) * (first - second)).sum(1)
    if link == "sigmoid" and task.kind == "binary":
        # Both outcomes' terms add up to this: (p - q) times the difference of the log odds, which are the logits.
        first, second = first.squeeze(1), second.squeeze(1)
        return (first.sigmoid() - second.sigmoid()) * (first - second)
    return functional.mse_loss(answers_as_shares(first, link), answers_as_shares(second, link), reduction="none")


def normal_numbers(dropouts: DropoutStream, shape: tuple[int, int]) -> Tensor:
    """Standard normal numbers, fp32 of `shape`, by Box and Muller (1958) from the step's generator."""
    # Only the place in the generator's stream is used; the dropout rate given here has no effect.
    random = dropouts(0.5)
    count = shape[0] * shape[1]
    counters = torch.arange((count + 3) // 4, device=random.seed.device)
    words = torch.stack(philox(random.seed, counters, random.site)).float()
    radii = (-2 * ((words[0::2] + 1) / 2**32).log()).clamp(min=0).sqrt()
    angles = (2 * torch.pi / 2**32) * words[1::2]
    return torch.cat([radii * angles.cos(), radii * angles.sin()]).view(-1)[:count].view(shape)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Within this context no parameter of the model takes a gradient, so that none is computed."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
