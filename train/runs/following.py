"""A run's life on the ranks that do not lead: they compute, agree and send, and leave the folder to the first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from concord.bert.errors import InputError
from concord.kernels.dispatch import chosen_kernels, set_kernels
from concord.kernels.products import set_products
from concord.train.outputs.folders import RunFolder
from concord.train.ranks.group import Ranks
from concord.train.reporter import SILENT
from concord.train.runs.session import Session
from concord.train.steps.optimizer import SurgeryOptimizer
from concord.train.steps.precision import Precision


class SilentLog:
    """In place of a metrics.jsonl that another process writes."""

    def write(self, entry: Mapping[str, Any]) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Nothing is open."""


class FollowingSession(Session):
    """The session of a rank that does not lead; see `Session`."""

    def __init__(self, folder: RunFolder, precision: Precision, ranks: Ranks) -> None:
        super().__init__(RunFolder(folder.path), SILENT, precision, ranks)
        self._resumed, self.log = folder.resumed and not folder.anew, SilentLog()

    def open(
        self,
        optimizer: SurgeryOptimizer,
        digests: Mapping[str, str],
        settings: Mapping[str, Callable[[Path], None]],
        total_steps: int,
    ) -> None:
        """Take the state that the first rank has read, and what it computes with.

        InputError where this rank reads other data, or has other kernels.
        """
        self._optimizer = optimizer
        for name, digest in self.ranks.tell(dict).items():
            if digests.get(name) != digest:
                raise InputError(
                    f"rank {self.ranks.rank}: its {name} examples are not those of rank 0; expected the same data on "
                    "every machine"
                )
        if self._resumed:
            optimizer.load(None)
        self.directory, kernels, products, self.bit_equal = self.ranks.tell(tuple)
        if (kernels, chosen_kernels()) == ("torch", "native"):
            set_kernels("torch")
        if kernels != chosen_kernels():
            raise InputError(
                f"rank {self.ranks.rank}: its kernels are {self.kernels}, and those of rank 0 {kernels}; give "
                "--kernels torch, or the same machines"
            )
        if products:
            set_products(products)

    def save(self) -> None:
        """Send the first rank what lies here of the state that it saves."""
        for _ in self._optimizer.saved_parts():
            pass
