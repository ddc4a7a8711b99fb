"""Triton functions of `kernels.surgery.rules`: random orders of the tasks, and the coefficients of a rule.

A rule that runs on the device is a METHOD of `rows_of_model` and of `rows_of_blocks`.
"""

import triton
import triton.language as tl


@triton.jit
def random_ranks(seed, SITE: tl.constexpr, MOST: tl.constexpr, TASKS: tl.constexpr, WIDTH: tl.constexpr):
    """`random_orders`, as the place of task j in row i's order: int32 [WIDTH, WIDTH]."""
    i, j = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    counter = (i * MOST + j).to(tl.uint32)
    zero = counter * 0
    drawn, _, _, _ = tl.philox(seed, counter, zero, zero + SITE, zero, n_rounds=7)
    other = tl.arange(0, WIDTH)[None, None, :]
    place = tl.arange(0, WIDTH)[None, :, None]
    before = (drawn[:, None, :] < drawn[:, :, None]) | ((drawn[:, None, :] == drawn[:, :, None]) & (other < place))
    return tl.sum((before & (other < TASKS)).to(tl.int32), 2)


@triton.jit
def _coefficients(
    gram,
    squares,
    targets,
    beta,
    ranks,
    GRADVAC: tl.constexpr,
    TASKS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """`surgery_coefficients` of a tile of groups: fp64 [GROUPS, WIDTH], and the new targets [GROUPS, WIDTH, WIDTH].

    gram: fp64 [GROUPS, WIDTH, WIDTH]; squares: its diagonal [GROUPS, WIDTH]; targets: like gram.
    """
    i, j = tl.arange(0, WIDTH)[:, None], tl.arange(0, WIDTH)[None, :]
    start = ((i == j) & (i < TASKS)).to(tl.float64)
    running = tl.zeros([GROUPS, WIDTH, WIDTH], tl.float64) + start[None, :, :]
    length = squares
    for place in range(TASKS):
        # Each row meets one task, whose column of the matrix is selected by a product with a one-hot vector.
        meets = (ranks == place) & (i < TASKS) & (j < TASKS)
        chosen = meets.to(tl.float64)
        other = tl.sum((meets & (i != j)).to(tl.int32), 1)[None, :] > 0
        column = tl.sum(gram[:, None, :, :] * chosen[None, :, None, :], 3)
        dot = tl.sum(running * column, 2)
        square = tl.sum(squares[:, None, :] * chosen[None, :, :], 2)
        if GRADVAC:
            product = tl.sqrt(length * square)
            pair = (product > 0) & other
            phi = tl.where(pair, dot / tl.where(pair, product, 1.0), 0.0)
            phi = tl.minimum(tl.maximum(phi, -1.0), 1.0)
            target = tl.sum(targets * chosen[None, :, :], 2)
            root = tl.sqrt(tl.maximum(1 - target * target, 1e-12))
            grown = tl.sqrt(length / tl.where(pair, square, 1.0)) * (target * tl.sqrt(1 - phi * phi) / root - phi)
            change = tl.where(pair & (phi < target), grown, 0.0)
            length = tl.maximum(length + 2 * change * dot + change * change * square, 0.0)
            targets += tl.where(pair, beta * (phi - target), 0.0)[:, :, None] * chosen[None, :, :]
        else:
            conflict = (dot < 0) & (square > 0) & other
            change = tl.where(conflict, -dot / tl.where(conflict, square, 1.0), 0.0)
        running += change[:, :, None] * chosen[None, :, :]
    return tl.sum(running, 1), targets


@triton.jit
def rows_of_model(
    given,
    targets,
    total,
    total_squares,
    private,
    owns,
    target_rate,
    ranks,
    pair_at,
    pair_mask,
    live_pairs,
    METHOD: tl.constexpr,
    PRIVATE_NORMS: tl.constexpr,
    TASKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The coefficients of all blocks where surgery is the whole model's: fp64 [BLOCKS, WIDTH]; advances `targets`.

    METHOD: given, pcgrad or gradvac.
    total, total_squares: fp64 [WIDTH, WIDTH] and its diagonal; private, owns: fp64 [HEADS], the squared norms of the
    private parameters, and bool [HEADS, WIDTH], whose they are; live_pairs: of a step that is applied.
    """
    task = tl.arange(0, WIDTH)
    if METHOD == "given":
        own = tl.load(given + task, mask=task < TASKS, other=0.0)
        rows = tl.zeros([BLOCKS, WIDTH], tl.float64) + own[None, :]
    elif METHOD == "pcgrad" or METHOD == "gradvac":
        solved, lengths = total, total_squares
        if PRIVATE_NORMS:
            lengths += tl.sum(tl.where(owns, private[:, None], 0.0), 0)
            diagonal = tl.arange(0, WIDTH)[:, None] == tl.arange(0, WIDTH)[None, :]
            solved = tl.where(diagonal, lengths[None, :], total)
        old = tl.load(targets + pair_at, mask=pair_mask, other=0.0)
        tl.debug_barrier()
        own, new = _coefficients(
            solved[None, :, :],
            lengths[None, :],
            old[None, :, :],
            target_rate,
            ranks,
            METHOD == "gradvac",
            TASKS,
            WIDTH,
            1,
        )
        if METHOD == "gradvac":
            tl.store(targets + pair_at[None, :, :], new, mask=live_pairs[None, :, :])
        rows = tl.zeros([BLOCKS, WIDTH], tl.float64) + own
    return rows


@triton.jit
def rows_of_blocks(
    given,
    targets,
    values,
    squares,
    target_rate,
    ranks,
    at,
    mask,
    task_at,
    task_mask,
    live_pairs,
    METHOD: tl.constexpr,
    TASKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The coefficients of a tile of blocks that each have their own surgery: fp64 [BLOCKS, WIDTH]; advances `targets`.

    METHOD: given, pcgrad or gradvac; values, squares: fp64 [BLOCKS, WIDTH, WIDTH], their Gram matrices, and the
    diagonals, fp64 [BLOCKS, WIDTH].
    """
    if METHOD == "given":
        rows = tl.load(given + task_at, mask=task_mask, other=0.0)
    elif METHOD == "pcgrad" or METHOD == "gradvac":
        old = tl.load(targets + at, mask=mask, other=0.0)
        tl.debug_barrier()
        rows, new = _coefficients(values, squares, old, target_rate, ranks, METHOD == "gradvac", TASKS, WIDTH, BLOCKS)
        if METHOD == "gradvac":
            tl.store(targets + at, new, mask=mask & live_pairs[None, :, :])
    return rows
