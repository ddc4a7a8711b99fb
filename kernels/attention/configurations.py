"""How the kernels for long sequences (`tiled_kernels`) are cut into tiles, by dtype, architecture and head size."""

from typing import NamedTuple

from torch import Tensor

from concord.kernels.attention.tiles import tile_width
from concord.kernels.dispatch import for_architecture


class Tiles(NamedTuple):
    """How one kernel is cut into tiles and run.

    queries: of a tile.
    keys: of a tile.
    warps: of a program.
    stages: of the pipeline of the loop's loads.
    """

    queries: int
    keys: int
    warps: int
    stages: int


class Configuration(NamedTuple):
    """The tiles of the three kernels.

    forward: of the result's kernel.
    query_gradients: of the kernel for the queries' gradients.
    key_gradients: of the kernel for the keys' and values' gradients.
    apart: whether keys and values have programs of their own there, where the registers do not hold both gradients.
    """

    forward: Tiles
    query_gradients: Tiles
    key_gradients: Tiles
    apart: bool = False


# For 16 bits: by architecture, then by the largest head size that an entry serves. Each compiles without spills; none
# was timed yet. On sm_90 no side is shorter than `shortest_side`, and a program has four warps, which multiply as one
# group: of several groups, Triton 3.6 and 3.7 let one overwrite what another still multiplies (triton-lang/triton issue
# 11047).
_HALF = {
    "hip": {
        64: Configuration(Tiles(64, 32, 4, 1), Tiles(64, 32, 4, 1), Tiles(32, 64, 4, 1)),
        128: Configuration(Tiles(64, 32, 4, 1), Tiles(32, 32, 4, 1), Tiles(32, 32, 4, 1)),
    },
    8: {
        64: Configuration(Tiles(64, 64, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2)),
        128: Configuration(Tiles(64, 32, 4, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2)),
    },
    9: {
        64: Configuration(Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 2)),
        128: Configuration(Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 1), apart=True),
    },
    12: {
        32: Configuration(Tiles(64, 64, 4, 2), Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2)),
        64: Configuration(Tiles(64, 64, 4, 2), Tiles(32, 64, 4, 2), Tiles(64, 32, 4, 2)),
        128: Configuration(Tiles(64, 32, 4, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2)),
    },
}
# For fp32, on every architecture: the tiles above would spill kilobytes a thread.
_SINGLE = {
    32: Configuration(Tiles(64, 32, 8, 1), Tiles(64, 32, 8, 1), Tiles(64, 32, 8, 1)),
    64: Configuration(Tiles(32, 32, 8, 1), Tiles(32, 32, 8, 1), Tiles(32, 32, 8, 1)),
    128: Configuration(Tiles(16, 16, 8, 1), Tiles(16, 16, 8, 1), Tiles(32, 16, 8, 1)),
}


def tiled_configuration(qkv: Tensor) -> Configuration:
    """The tiles for the heads and the dtype of `qkv` [tokens, 3, heads, head size], on its device."""
    table = _SINGLE if qkv.element_size() == 4 else for_architecture(_HALF, qkv.device)
    width = tile_width(qkv)
    return table[min((limit for limit in table if limit >= width), default=max(table))]
