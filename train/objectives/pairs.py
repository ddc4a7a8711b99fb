"""Losses on the embeddings of pairs that are encoded one by one: cosine-embedding, ranking and triplet losses.

x_i and y_i are the embeddings of pair i of a micro-batch, S is their cosine similarity (at a temperature of 1), and a
pair's share is its label as a share of the task's range. A micro-batch without positives, or without negatives, counts
nothing. The losses read nothing on the host, and no gradient is a sum in an order that varies. Each takes
`Pairs`, gives the mean over them, fp32 scalar, and is a line in `concord.train.settings.tables`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from concord.kernels.dropout import DropoutStream, philox

_LABEL_THRESHOLD, _LABEL_RISE = 4.4 / 5, 0.05 / 5  # the least share of a positive, and its rise an epoch
_COSINE_THRESHOLD, _COSINE_RISE = 0.8, 0.02
_SINGLE_THRESHOLD = 3 / 5
_TRIPLET_MARGIN = 1.0
_ROUNDING = 1e-4  # a share this close to a threshold counts as equal to it


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The pairs of a micro-batch, and what their losses may take beside.

    Attributes:
        first: fp32 [n, hidden], the embeddings x of the first sequences.
        second: fp32 [n, hidden], the embeddings y of the second sequences.
        shares: fp32 [n], the labels as shares of the task's range.
        margin: of the cosine-embedding loss.
        epoch: fp32 scalar, from 0, with which thresholds rise.
        dropouts: where random numbers come from.
    """

    first: Tensor
    second: Tensor
    shares: Tensor
    margin: float
    epoch: Tensor
    dropouts: DropoutStream


def cosine_embedding(pairs: Pairs) -> Tensor:
    """The mean of 1 - S(x_i, y_i) for shares of at least a half, max(0, S(x_i, y_i) - margin) for others.

    The contrastive loss of Hadsell et al. (2006) on cosines.
    """
    cosines = functional.cosine_similarity(pairs.first, pairs.second)
    return torch.where(pairs.shares >= 0.5, 1 - cosines, (cosines - pairs.margin).relu()).mean()


def multiple_negatives_by_label(pairs: Pairs) -> Tensor:
    """-1/K sum_i [S(x_i, y_i) - log sum_j exp S(x_i, y_j)] over the K positives i.

    Positives have a label of at least 4.4 of 5, or the same share of another range; that rises by 0.05 an epoch. The
    sum over j is over the second sentences of all pairs.
    """
    positive = pairs.shares >= _LABEL_THRESHOLD + _LABEL_RISE * pairs.epoch - _ROUNDING
    similarities = _unit(pairs.first) @ _unit(pairs.second).t()
    return _mean_where(similarities.logsumexp(1) - similarities.diagonal(), positive)


def multiple_negatives_by_cosine(pairs: Pairs) -> Tensor:
    """The same where positives are the pairs with S(x_i, y_i) of at least 0.8, which rises by 0.02 an epoch.

    The sum then is over every other sentence of the batch, first ones too.
    """
    first, second = _unit(pairs.first), _unit(pairs.second)
    similarities = first @ second.t()
    own = similarities.diagonal()
    itself = torch.eye(len(first), dtype=torch.bool, device=first.device)
    others = (first @ first.t()).masked_fill(itself, -torch.inf)
    positive = own >= _COSINE_THRESHOLD + _COSINE_RISE * pairs.epoch
    return _mean_where(torch.cat([similarities, others], dim=1).logsumexp(1) - own, positive)


def single_positive(pairs: Pairs) -> Tensor:
    """log sum_n exp S(x_n, y_n) - S(x_p, y_p) of one positive p and all other pairs n.

    The positive is the batch's first pair with a label above 3 of 5.
    """
    cosines = functional.cosine_similarity(pairs.first, pairs.second)
    if len(cosines) < 2:
        return cosines.sum() * 0
    numbers = torch.arange(len(cosines), device=cosines.device)
    chosen = numbers == torch.where(pairs.shares > _SINGLE_THRESHOLD + _ROUNDING, numbers, len(cosines)).min()
    return _mean_where(cosines.masked_fill(chosen, -torch.inf).logsumexp(0) - cosines, chosen)


def weighted_triplet(pairs: Pairs) -> Tensor:
    """The mean of share_i * max(0, |x_i - y_i| - |x_i - y_k| + 1), y_k being that of a random other pair k."""
    first, second, count = pairs.first, pairs.second, len(pairs.first)
    # Only the place in the generator's stream is used; the dropout rate given here has no effect.
    random = pairs.dropouts(0.5)
    if count < 2:
        return first.sum() * 0
    numbers = torch.arange(count, device=first.device)
    negative = (numbers + 1 + philox(random.seed, numbers, random.site)[0] % (count - 1)) % count
    # A product with a one-hot matrix: where k repeats, the gradient of a gather is summed in an order that varies on a
    # GPU.
    chosen = (negative[:, None] == numbers).to(second.dtype) @ second
    losses = functional.triplet_margin_loss(first, second, chosen, margin=_TRIPLET_MARGIN, reduction="none")
    return (pairs.shares * losses).mean()


def _unit(embeddings: Tensor) -> Tensor:
    return functional.normalize(embeddings, dim=1)


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the `chosen` values, 0 where there are none."""
    return torch.where(chosen, values, 0).sum() / chosen.sum().clamp(min=1)
