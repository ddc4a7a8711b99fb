"""The order in which the programs of a launch run one after another."""

import zlib

import numpy as np

ORDERS = ("shuffle", "forward", "reverse")


class ProgramOrder:
    """name: one of ORDERS; seed: of the shuffled one, which each launch draws anew."""

    def __init__(self, name: str, seed: int) -> None:
        if name not in ORDERS:
            raise ValueError(f"order {name!r}: expected one of {', '.join(ORDERS)}")
        self._name, self._seed = name, seed
        self.restart("")

    def restart(self, test: str) -> None:
        """Draw from here on what belongs to the seed and to `test`, whichever tests ran before it."""
        self._random = np.random.default_rng([self._seed, zlib.crc32(test.encode())])

    def programs(self, count: int) -> np.ndarray:
        """The numbers 0 to count - 1 in the order of the next launch, int64."""
        if self._name == "shuffle":
            return self._random.permutation(count)
        return np.arange(count)[:: -1 if self._name == "reverse" else 1]
