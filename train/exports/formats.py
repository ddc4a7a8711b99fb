"""The formats that a run's best model is exported in, as data: a table of small entries, one a format."""

from dataclasses import dataclass
from typing import Literal

from concord.bert.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class Format(Entry):
    """One format: (Request) -> Written, see `concord.train.exports.request`.

    Attributes:
        without_task: what is exported where no task is named: the run's only task, the embeddings alone, or all tasks,
            of which several may be named then.
        eight_bit: whether it can hold weights as 8-bit integers.
        compares: whether its answers are compared with the run's on the dev sets.
        extra: the extra of the package that brings what it needs, "" for none.
    """

    without_task: Literal["the only task", "the embeddings", "all tasks"] = "the only task"
    eight_bit: bool = False
    compares: bool = False
    extra: str = ""


FORMATS = Table(
    "--format",
    Format,
    Format(
        name="transformers",
        help="a task as AutoModelForSequenceClassification",
        target="concord.train.exports.classifier:write_classifier",
    ),
    Format(
        name="sentence-transformers",
        help="the embeddings, or a task of pairs, as SentenceTransformer or CrossEncoder",
        target="concord.train.exports.sentences:write_sentences",
        without_task="the embeddings",
    ),
    Format(
        name="onnx",
        help="the encoder and its heads in one graph for onnxruntime",
        target="concord.train.exports.graph:write_graph",
        without_task="all tasks",
        eight_bit=True,
        compares=True,
        extra="onnx",
    ),
)
"""The formats, by what --format calls them."""
