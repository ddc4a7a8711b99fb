"""The families that a run chooses from, a line for each member; nothing of them is imported before it is used.

A flag's choices, what it refuses and what --help lists of it come from here. To add a member, write its function, in
the signature that the family's entry class tells, and its line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from concord.bert.tables import Entry, Table

if TYPE_CHECKING:
    from concord.bert.heads import Link

_TRAIN, _TORCHJD = "concord.train", "torchjd.aggregation"
DEMO = "demo"
"""The source of data that the project generates itself."""


@dataclass(frozen=True, kw_only=True)
class LossEntry(Entry):
    """A loss of a task's logits: (logits, labels, task, weights) -> the sum over the examples, see `logit_losses`.

    Attributes:
        link: the function from logits to answers, which decides which tasks the loss fits; None for the link that
            suits the task's kind.
        squared_error: whether it stands for a Gaussian's likelihood where its weight is learned.
        auto_of: the kind of tasks for which it is what "auto" stands for.
    """

    link: "Link | None" = None
    squared_error: bool = False
    auto_of: str = ""


LOSSES = Table(
    "loss",
    LossEntry,
    LossEntry(
        name="cross-entropy",
        help="over the classes",
        target=f"{_TRAIN}.objectives.logit_losses:cross_entropy",
        link="softmax",
        auto_of="classification",
    ),
    LossEntry(
        name="mse",
        help="to the label as a share",
        target=f"{_TRAIN}.objectives.logit_losses:mse",
        link="identity",
        squared_error=True,
        auto_of="regression",
    ),
    LossEntry(
        name="sigmoid-mse",
        help="of the sigmoid",
        target=f"{_TRAIN}.objectives.logit_losses:sigmoid_mse",
        link="sigmoid",
        squared_error=True,
    ),
    LossEntry(
        name="huber",
        help="linear beyond a point",
        target=f"{_TRAIN}.objectives.logit_losses:huber",
        link="identity",
        squared_error=True,
    ),
    LossEntry(
        name="binary-cross-entropy",
        help="of the sigmoid",
        target=f"{_TRAIN}.objectives.logit_losses:binary_cross_entropy",
        link="sigmoid",
        auto_of="binary",
    ),
)

# Losses of the embeddings of pairs: (Pairs) -> the mean over the pairs, see `pairs`.
PAIR_LOSSES = Table(
    "loss of pairs",
    Entry,
    Entry(
        name="cosine-embedding",
        help="like pairs together",
        target=f"{_TRAIN}.objectives.pairs:cosine_embedding",
    ),
    Entry(
        name="mnrl-label",
        help="multiple negatives by label",
        target=f"{_TRAIN}.objectives.pairs:multiple_negatives_by_label",
    ),
    Entry(
        name="mnrl-cosine",
        help="by cosine",
        target=f"{_TRAIN}.objectives.pairs:multiple_negatives_by_cosine",
    ),
    Entry(
        name="mnrl-single",
        help="one positive a batch",
        target=f"{_TRAIN}.objectives.pairs:single_positive",
    ),
    Entry(
        name="triplet",
        help="against a random other pair",
        target=f"{_TRAIN}.objectives.pairs:weighted_triplet",
    ),
)


@dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """A head: (HeadSpec) -> TaskHead, see `concord.bert.heads`.

    Attributes:
        compares: whether it needs a pair's two embeddings and answers a share of the range.
        has_parameters: whether a loss of its logits has anything in it to train.
    """

    compares: bool = False
    has_parameters: bool = True


HEADS = Table(
    "head",
    HeadEntry,
    HeadEntry(name="linear", help="one layer", target="concord.bert.heads:linear_head"),
    HeadEntry(name="hidden", help="two layers with a ReLU before it", target="concord.bert.heads:hidden_head"),
    HeadEntry(
        name="cosine",
        help="of a pair's embeddings",
        target="concord.bert.heads:cosine_head",
        compares=True,
        has_parameters=False,
    ),
    HeadEntry(
        name="mapped-cosine",
        help="of a linear map of them",
        target="concord.bert.heads:mapped_cosine_head",
        compares=True,
    ),
)


@dataclass(frozen=True, kw_only=True)
class RuleEntry(Entry):
    """A rule of surgery, which makes coefficients of Gram matrices.

    Attributes:
        place: where it computes: on the device, in the plan of a step, under its name; or on the host, which every
            step then waits for: (fp64 [groups, T, T]) -> fp64 [groups, T], see `concord.train.steps.weightings`.
        library: whether it is TorchJD's: a class that makes a rule of one matrix, in the scale of a mean.
        scale_free: whether the library's rule gives the same for gradients of another scale, as long as this is
            ordinary: it takes small ones for zero. It is given those of unit norm then.
        options: keyword arguments of that class.
    """

    place: Literal["device", "host"] = "host"
    library: bool = False
    scale_free: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def _on_device(name: str, text: str) -> RuleEntry:
    return RuleEntry(name=name, help=text, target="concord.kernels.surgery.rules:surgery_coefficients", place="device")


def _of_torchjd(name: str, text: str, target: str, *, scale_free: bool = True, **options: float) -> RuleEntry:
    return RuleEntry(name=name, help=text, target=target, library=True, scale_free=scale_free, options=options)


# The hyperparameters of TorchJD's rules are those of each rule's authors.
RULES = Table(
    "rule of surgery",
    RuleEntry,
    _on_device("none", "the plain sum"),
    _on_device("pcgrad", "Yu et al. 2020"),
    _on_device("gradvac", "Wang et al. 2021"),
    _of_torchjd("upgrad", "TorchJD's, as the rest", f"{_TORCHJD}:UPGradWeighting"),
    _of_torchjd("dualproj", "dual cone projection", f"{_TORCHJD}:DualProjWeighting"),
    _of_torchjd("mgda", "least norm", f"{_TORCHJD}:MGDAWeighting"),
    _of_torchjd("cagrad", "conflict-averse", f"{_TORCHJD}:CAGradWeighting", c=0.4),
    _of_torchjd("alignedmtl", "aligned components", f"{_TORCHJD}:AlignedMTLWeighting"),
    _of_torchjd("imtlg", "impartial", f"{_TORCHJD}:IMTLGWeighting"),
    _of_torchjd("fairgrad", "alpha-fair", f"{_TORCHJD}:FairGradWeighting", scale_free=False, alpha=2.0),
    _of_torchjd("nashmtl", "Nash bargaining", f"{_TRAIN}.steps.weightings:NashMTL", scale_free=False),
    _of_torchjd("pcd", "by averaged norms", f"{_TRAIN}.steps.weightings:PCD", scale_free=False),
)


@dataclass(frozen=True, kw_only=True)
class BatchingEntry(Entry):
    """Which tasks a step holds: (sizes, BatchConfig) -> Sampler, see `concord.train.data.batching`.

    Attributes:
        one_task: whether a step holds one task.
        all_sets: whether an epoch is as long as all sets together, which are read by their sizes alone.
    """

    one_task: bool = False
    all_sets: bool = False


BATCHINGS = Table(
    "batching",
    BatchingEntry,
    BatchingEntry(name="joint", help="all", target=f"{_TRAIN}.data.batching:joint"),
    BatchingEntry(name="alternate", help="one, in turn", target=f"{_TRAIN}.data.batching:alternate", one_task=True),
    BatchingEntry(
        name="sequential",
        help="one set after the other",
        target=f"{_TRAIN}.data.batching:sequential",
        one_task=True,
        all_sets=True,
    ),
    BatchingEntry(
        name="proportional",
        help="all, in proportion to their sets",
        target=f"{_TRAIN}.data.batching:proportional",
    ),
    BatchingEntry(
        name="annealed",
        help="one, drawn by size and later evenly",
        target=f"{_TRAIN}.data.batching:annealed",
        one_task=True,
        all_sets=True,
    ),
)

# The factor of all rates after the warm-up: (step, Steps) -> float, see `concord.train.steps.schedule`.
SCHEDULES = Table(
    "schedule",
    Entry,
    Entry(name="linear", help="falling to 0", target=f"{_TRAIN}.steps.schedule:linear"),
    Entry(name="constant", help="1", target=f"{_TRAIN}.steps.schedule:constant"),
    Entry(
        name="milestones", help="multiplied by --decay at --milestones", target=f"{_TRAIN}.steps.schedule:milestones"
    ),
)


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry):
    """A metric: (predictions, labels) -> float, or None where it is undefined; the higher the better.

    Attributes:
        kinds: the kinds of tasks that can have it.
        unasked: those whose tasks have it in any case. The first such metric of a kind is what its tasks are judged by
            where no other is chosen.
        of_scores: whether it takes in place of the predictions how much speaks for the answer 1, float32 [examples].
        library: whether it is scikit-learn's.
        undefined: where it is undefined: never; where the labels are all one; or where the predictions are, too.
    """

    kinds: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    of_scores: bool = False
    library: bool = False
    undefined: Literal["", "labels", "labels and predictions"] = ""


_CLASSES, _BINARY, _SCORES = ("classification", "binary"), ("binary",), ("regression",)


def _metric(name: str, text: str, kinds: tuple[str, ...], **more: Any) -> MetricEntry:
    target = f"{_TRAIN}.objectives.metrics:{name.replace('-', '_')}"
    return MetricEntry(name=name, help=text, target=target, kinds=kinds, **more)


METRICS = Table(
    "metric",
    MetricEntry,
    _metric("accuracy", "share of right answers", _CLASSES, unasked=_CLASSES),
    _metric("f1", "mean of precision and recall", _BINARY, unasked=_BINARY),
    _metric("macro-f1", "plain mean of the classes' f1", _CLASSES, library=True),
    _metric("mcc", "Matthews' correlation", _CLASSES, library=True, undefined="labels and predictions"),
    _metric("roc-auc", "chance that a 1 outscores a 0", _BINARY, library=True, of_scores=True, undefined="labels"),
    _metric("pearson", "correlation", _SCORES, unasked=_SCORES, undefined="labels and predictions"),
    _metric("spearman", "correlation of ranks", _SCORES, unasked=_SCORES, undefined="labels and predictions"),
)

# Where examples come from: (what --data says) -> Source, see `concord.train.data.sources`.
SOURCES = Table(
    "source",
    Entry,
    Entry(name=DEMO, help="generated", target=f"{_TRAIN}.data.sources:DemoSource"),
    Entry(name="course", help="a folder in the course layout", target=f"{_TRAIN}.data.sources:CourseSource"),
)
