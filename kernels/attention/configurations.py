"""How the kernels of long sequences, `mixed_kernels` and `tiled_kernels`, are cut, by dtype and architecture."""

from typing import NamedTuple

from torch import Tensor

from concord.kernels.dispatch import for_architecture


class Blocks(NamedTuple):
    """How one kernel of `mixed_kernels` is cut and run.

    tile: rows of a tile that short sequences share; longer ones are cut into blocks.
    rows: of a block of a long sequence.
    step: rows of the sequence that a block meets at once.
    warps: of a program.
    registers: the most that the compiler may give a thread, so that more programs run at once; 0: as many as it likes.
    """

    tile: int
    rows: int
    step: int
    warps: int
    registers: int = 0


class BlockConfiguration(NamedTuple):
    """The blocks of the two kernels of `mixed_kernels`."""

    forward: Blocks
    backward: Blocks


class Tiles(NamedTuple):
    """How one kernel of `tiled_kernels` is cut into tiles and run.

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
    """The tiles of the three kernels of `tiled_kernels`.

    forward: of the result's kernel.
    query_gradients: of the kernel for the queries' gradients.
    key_gradients: of the kernel for the keys' and values' gradients.
    apart: whether keys and values have programs of their own there, where the registers do not hold both gradients.
    """

    forward: Tiles
    query_gradients: Tiles
    key_gradients: Tiles
    apart: bool = False


# For 16 bits, by architecture. Each compiles without spills; none was timed yet. On sm_90 no side is shorter than
# `shortest_side`, and a program has four warps, which multiply as one group: of several groups, Triton 3.6 and 3.7 let
# one overwrite what another still multiplies (triton-lang/triton issue 11047). There 168 registers let three programs
# run at once on a multiprocessor, and the 187 that the compiler would take two.
_HALF_BLOCKS = {
    "hip": BlockConfiguration(Blocks(64, 64, 32, 4), Blocks(64, 64, 32, 4)),
    8: BlockConfiguration(Blocks(64, 64, 32, 4), Blocks(64, 64, 32, 4)),
    9: BlockConfiguration(Blocks(64, 64, 64, 4, 168), Blocks(64, 64, 64, 4)),
    10: BlockConfiguration(Blocks(64, 64, 64, 4), Blocks(64, 64, 64, 4)),
    12: BlockConfiguration(Blocks(64, 64, 64, 4), Blocks(64, 32, 32, 4)),
}
_HALF_TILES = {
    8: Configuration(Tiles(64, 32, 4, 2), Tiles(32, 32, 4, 2), Tiles(32, 32, 4, 2)),
    9: Configuration(Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 1), Tiles(64, 64, 4, 1), apart=True),
    "hip": Configuration(Tiles(64, 32, 4, 1), Tiles(32, 32, 4, 1), Tiles(32, 32, 4, 1)),
}
# For fp32, on every architecture: the ones above would spill kilobytes a thread.
_SINGLE_BLOCKS = {
    "hip": BlockConfiguration(Blocks(32, 32, 32, 8), Blocks(32, 32, 16, 8)),
    8: BlockConfiguration(Blocks(32, 32, 32, 8), Blocks(32, 32, 32, 8)),
}
_SINGLE_TILES = Configuration(Tiles(16, 16, 8, 1), Tiles(16, 16, 8, 1), Tiles(32, 16, 8, 1))


def block_configuration(qkv: Tensor) -> BlockConfiguration:
    """The blocks for the dtype of `qkv`, whose heads have up to 64 elements, on its device."""
    return for_architecture(_SINGLE_BLOCKS if qkv.element_size() == 4 else _HALF_BLOCKS, qkv.device)


def tiled_configuration(qkv: Tensor) -> Configuration:
    """The tiles for the dtype of `qkv`, whose heads have more than 64 elements, on its device."""
    return _SINGLE_TILES if qkv.element_size() == 4 else for_architecture(_HALF_TILES, qkv.device)
