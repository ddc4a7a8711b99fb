"""What a format is asked to write, and what it tells of what it has written."""

from dataclasses import dataclass
from pathlib import Path

from concord.train.data.tasks import Task
from concord.train.outputs.saved_run import SavedRun
from concord.train.reporter import Reporter


@dataclass(frozen=True)
class Request:
    """What a format is asked to write.

    Attributes:
        saved: the run's best model in fp32, on the CPU.
        tasks: whose answers are exported; none where the embeddings alone are.
        folder: to write into; the tokenizer's files are there.
        reporter: is told of it.
        eight_bit: whether weights become 8-bit integers.
        data: where the dev sets are read that the format compares on, "" for the run's own.
        examples: at most so many of each are compared; 0 for all.
    """

    saved: SavedRun
    tasks: tuple[Task, ...]
    folder: Path
    reporter: Reporter
    eight_bit: bool = False
    data: str = ""
    examples: int = 0


@dataclass(frozen=True)
class Written:
    """What a format has written.

    Attributes:
        library: that loads it, as the Hugging Face hub calls it.
        pipeline: what it does, in the hub's words; "" for none of these.
        loading: Python that loads it and asks it, for the card.
        remarks: what the user has to know, a phrase each.
    """

    library: str
    pipeline: str
    loading: str
    remarks: tuple[str, ...] = ()
