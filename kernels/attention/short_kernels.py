"""Attention of batches of short sequences alone, several in a tile: the Triton kernels and what launches them.

GROUP consecutive sequences are filled into tiles from the first on, and the t-th of their programs walks past t tiles
to find its own: `shared_tile_kernels` says what it does there. There are as many programs as sequences; those for which
nothing is left end at once. So the host need not know how many tiles there will be, and no program has two to do while
a multiprocessor has none. Without a loop over tiles a program also takes fewer registers, and more of them run at once.
"""

import triton
import triton.language as tl
from torch import Tensor

from concord.kernels.attention.shared_tile_kernels import backward_tile, forward_tile, own_tile
from concord.kernels.attention.tiles import score_factor, shortest_side, tile_width
from concord.kernels.attention.tiles_kernels import clear_padding

_LEAST_TILE = 32  # rows, for tiny sequences to share
_MOST_TILE = 64  # rows; the backward of 128 would spill
# The most elements of a tile, by bytes an element: without matrix instructions, fp32 operands stand in registers.
_MOST_ELEMENTS = {2: 64 * 64, 4: 64 * 32}
_WARPS = {2: {32: 2, 64: 4}, 4: {32: 8, 64: 8}}  # by bytes an element, then by tile
_GROUP = 8  # sequences that are filled into tiles one after the other; a power of two


def short_tile(qkv: Tensor, max_length: int) -> int:
    """The rows of a tile, which holds sequences of up to as many tokens and their gradients: what the longest sequence
    needs, or the most that there can be; 0 where heads are too large for any."""
    width = tile_width(qkv)
    most = min(_MOST_TILE, _MOST_ELEMENTS[qkv.element_size()] // width)
    least = max(_LEAST_TILE, shortest_side(qkv))
    return 0 if width > 64 else min(most, max(least, triton.next_power_of_2(max_length)))


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _short_attention_forward_kernel(
    qkv,
    out,
    log_sums,
    cu_seqlens,
    sequences,
    tokens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The result of one head in one tile of short sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    out: [tokens, heads, D] like it, written: the result.
    log_sums: fp32 [heads, tokens], written: the softmax's log-sums to the base 2.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        across = start.to(tl.int64) * (heads * D) + head * D
        clear_padding(out + across, start, tokens, heads * D, 1, 0, TILE, D, WIDTH)
    else:
        start, stop, ends = own_tile(cu_seqlens, sequences, GROUP, TILE)
        length = stop - start
        if (length > 0) & (length <= TILE):
            forward_tile(
                qkv,
                out,
                log_sums,
                start,
                stop,
                ends,
                tokens,
                head,
                heads,
                factor,
                seed,
                site,
                threshold,
                scale,
                DROPOUT,
                TILE,
                D,
                WIDTH,
            )


@triton.jit(do_not_specialize=["sequences", "tokens", "heads", "site"])
def _short_attention_backward_kernel(
    qkv,
    d_out,
    log_sums,
    d_qkv,
    cu_seqlens,
    sequences,
    tokens,
    heads,
    factor,
    seed,
    site,
    threshold,
    scale,
    DROPOUT: tl.constexpr,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    D: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The gradient of qkv of one head in one tile of short sequences; the last programs zero the padding.

    qkv: [tokens, 3, heads, D] in the compute dtype.
    d_out: [tokens, heads, D] like it, the gradient of the result.
    log_sums: fp32 [heads, tokens], of the forward.
    d_qkv: like qkv, written.
    cu_seqlens: int32 [sequences + 1], where each sequence begins.
    sequences, tokens: int.
    heads, factor: int, float; factor: `score_factor`.
    seed: int64 scalar, of the dropout; None without one.
    site, threshold, scale: int, int, float, of the dropout.
    """
    head = tl.program_id(1)
    stride = 3 * heads * D
    if tl.program_id(0) * GROUP >= sequences:
        start = tl.load(cu_seqlens + sequences)
        target = d_qkv + start.to(tl.int64) * stride + head * D
        clear_padding(target, start, tokens, stride, 3, heads * D, TILE, D, WIDTH)
    else:
        start, stop, ends = own_tile(cu_seqlens, sequences, GROUP, TILE)
        length = stop - start
        if (length > 0) & (length <= TILE):
            backward_tile(
                qkv,
                d_out,
                log_sums,
                d_qkv,
                start,
                stop,
                ends,
                tokens,
                head,
                heads,
                factor,
                seed,
                site,
                threshold,
                scale,
                DROPOUT,
                TILE,
                D,
                WIDTH,
            )


def _grid(sequences: int, heads: int) -> tuple[int, int, int]:
    """The programs: groups, and one more that clears the padding; heads; tiles that a group may fill."""
    return triton.cdiv(sequences, _GROUP) + 1, heads, max(1, min(sequences, _GROUP))


def _options(qkv: Tensor, tile: int, dropout: bool) -> dict[str, int | bool]:
    """The constants of either kernel."""
    size = qkv.shape[-1]
    return {
        "DROPOUT": dropout,
        "GROUP": _GROUP,
        "TILE": tile,
        "D": size,
        "WIDTH": tile_width(qkv),
        "num_warps": _WARPS[qkv.element_size()][tile],
        "num_stages": 1,
    }


def short_forward(
    qkv: Tensor,
    out: Tensor,
    log_sums: Tensor,
    cu_seqlens: Tensor,
    tile: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write the result of sequences that fit a tile to `out` and `log_sums`, and zero padding: see `attention_forward`.

    qkv: contiguous; tile: by `short_tile`; dropout: as `kernel_arguments` gives it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    options = _options(qkv, tile, dropout[0] is not None)
    _short_attention_forward_kernel[_grid(sequences, heads)](
        qkv, out, log_sums, cu_seqlens, sequences, tokens, heads, score_factor(size), *dropout, **options
    )


def short_backward(
    d_out: Tensor,
    qkv: Tensor,
    log_sums: Tensor,
    d_qkv: Tensor,
    cu_seqlens: Tensor,
    tile: int,
    dropout: tuple[Tensor | None, int, int, float],
) -> None:
    """Write what sequences that fit a tile have in the gradient of qkv to `d_qkv`, and zero padding: see
    `attention_backward`.

    d_out, qkv, d_qkv: contiguous; log_sums: of the forward; tile: by `short_tile`; dropout: as `kernel_arguments` gives
    it.
    """
    tokens, _, heads, size = qkv.shape
    sequences = len(cu_seqlens) - 1
    options = _options(qkv, tile, dropout[0] is not None)
    _short_attention_backward_kernel[_grid(sequences, heads)](
        qkv, d_out, log_sums, d_qkv, cu_seqlens, sequences, tokens, heads, score_factor(size), *dropout, **options
    )
