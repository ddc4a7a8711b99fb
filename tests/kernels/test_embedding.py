"""The kernels of embedding sum + LayerNorm + dropout against fp64, with repeated and absent indices."""

import pytest
import torch

from concord.kernels.checks.ops import embedding_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.embedding import embedding
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE, DTYPES, check, task_rows

SIZES = (37, 20, 2)


def indices_of(count, seed=0):
    """Random ids, of which half are the same one, positions and segments."""
    generator = torch.Generator().manual_seed(seed)
    ids, positions, segments = (
        torch.randint(0, size, (count,), generator=generator, dtype=torch.int32) for size in SIZES
    )
    ids[::2] = 5
    return tuple(index.to(DEVICE) for index in (ids, positions, segments))


def tensors(columns):
    generator = torch.Generator().manual_seed(columns)
    tables = [torch.randn(size, columns, generator=generator) for size in SIZES]
    return tables, list(torch.randn(2, columns, generator=generator))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "rate"), [(3, 0.0), (24, 0.3)])
@pytest.mark.parametrize("count", [1, 3, 70])
def test_without_task_gradients_tables_get_ordinary_ones(count, columns, rate, dtype):
    check(embedding_case(None, count, SIZES, columns, dtype, DEVICE, rate=rate))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("counts", [(1,), (3, 0, 14), (2, 1, 1, 3, 9), (70, 3)])
def test_each_task_gets_the_rows_that_its_tokens_read(counts, accumulate, dtype):
    rows = task_rows(counts, accumulate=accumulate)
    check(embedding_case(rows, sum(counts), SIZES, 24, dtype, DEVICE, rate=0.3))


@pytest.mark.usefixtures("poisoned")
def test_rows_that_do_not_occur_are_zero():
    (tables, norms), indices, rows = tensors(24), indices_of(9), task_rows((4, 5))
    parameters = [tensor.to(DEVICE).requires_grad_() for tensor in (*tables, *norms)]
    for parameter in parameters:
        parameter.task_gradients = torch.full((2, *parameter.shape), torch.nan, device=DEVICE)
    with using_kernels("triton"):
        embedding(*indices, tuple(parameters[:3]), *parameters[3:], 1e-12, None, rows).sum().backward()
    ids = indices[0].tolist()
    for task, own in enumerate((ids[:4], ids[4:])):
        touched = parameters[0].task_gradients[task].abs().sum(1) > 0
        assert set(touched.nonzero().flatten().tolist()) == set(own)


def flat_tables(columns):
    """Tables and norms in the flat layout of two tasks, with gradients of NaN that no step has written yet."""
    tables, norms = tensors(columns)
    named = {str(index): torch.nn.Parameter(value.to(DEVICE)) for index, value in enumerate((*tables, *norms))}
    flat = FlatParameters(named, dict.fromkeys(named, "embeddings"), tasks=2)
    for entry in flat.entries:
        flat.view(flat.gradients, entry).fill_(torch.nan)
    return list(named.values()), flat


def step_on(parameters, indices, kernels, **more):
    with using_kernels(kernels):
        rows = task_rows((4, 5), **more)
        y = embedding(*indices, tuple(parameters[:3]), *parameters[3:], 1e-12, None, rows)
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(DEVICE))


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("columns", [24, 384, 1500])
def test_a_step_clears_what_the_step_before_wrote_and_touches_nothing_else(columns, kernels):
    parameters, flat = flat_tables(columns)
    before, later = indices_of(9, seed=1), indices_of(9, seed=2)
    before[0].clamp_(max=30)
    later[0].clamp_(max=10)
    step_on(parameters, before, kernels)
    words = flat.view(flat.gradients, next(entry for entry in flat.entries if entry.name == "0"))
    tables = [parameter.task_gradients for parameter in parameters[:3]]
    untouched = [parameter.touched_chunks == 0 for parameter in parameters[:3]]
    assert columns < 384 or all(flags.any() for flags in untouched[:2])
    for table, flags in zip(tables, untouched, strict=True):
        beyond = flags.repeat_interleave(CHUNK, 1)[:, : table[0].numel()].view(table.shape)
        assert (table[beyond] == 0).all()
    # The word table is one chunk at 24 columns; at more, what stands in a chunk that no step touches, stays. On CUDA
    # the reference clears everything: which chunks are touched would have to be asked of the device.
    is_marked = bool(untouched[0][1, -1])
    assert is_marked == (columns > 24)
    stays = is_marked and (kernels == "triton" or DEVICE == "cpu")
    words[1, 36, -1] = 3.0
    step_on(parameters, later, kernels)
    assert words[1, 36, -1] == (3.0 if stays else 0.0)
    words[1, 36, -1] = 0.0
    fresh, _ = flat_tables(columns)
    step_on(fresh, later, kernels)
    for parameter, other in zip(parameters, fresh, strict=True):
        assert torch.equal(parameter.task_gradients, other.task_gradients)
    for parameter, other in zip(parameters[:3], fresh[:3], strict=True):
        assert torch.equal(parameter.touched_chunks, other.touched_chunks)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_a_second_micro_batch_adds_to_the_rows_and_to_what_is_touched(kernels):
    first, second = indices_of(9, seed=1), indices_of(9, seed=2)
    parameters, _ = flat_tables(384)
    step_on(parameters, first, kernels)
    step_on(parameters, second, kernels, accumulate=True)
    sums, flags = 0, 0
    for indices in (first, second):
        alone, _ = flat_tables(384)
        step_on(alone, indices, kernels)
        sums, flags = sums + alone[0].task_gradients, flags | alone[0].touched_chunks
    assert_close(parameters[0].task_gradients, sums, TOLERANCES[torch.float32])
    assert torch.equal(parameters[0].touched_chunks, flags)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_the_flags_call_zero_is_zero_after_many_steps_on_a_large_table():
    # A warp that reads a flag after another one has cleared it would leave its share of the chunk as it was.
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(size, 768, generator=generator) for size in (30522, 512, 2)]
    named = {str(index): torch.nn.Parameter(value.to(DEVICE)) for index, value in enumerate(tables)}
    named |= {str(index): torch.nn.Parameter(torch.ones(768, device=DEVICE)) for index in (3, 4)}
    FlatParameters(named, dict.fromkeys(named, "embeddings"), tasks=2)
    parameters, rows = list(named.values()), task_rows((1000, 1048))
    for _ in range(30):
        indices = [torch.randint(0, len(table), (2048,), generator=generator, dtype=torch.int32) for table in tables]
        with using_kernels("triton"):
            y = embedding(*(own.to(DEVICE) for own in indices), parameters[:3], *parameters[3:], 1e-12, None, rows)
            y.backward(torch.ones_like(y))
        for table in parameters[:3]:
            flags = table.touched_chunks.repeat_interleave(CHUNK, 1)[:, : table.numel()].view(2, *table.shape)
            assert not table.task_gradients[flags == 0].any()


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_tables_may_keep_their_flags_apart(kernels):
    shared, _ = flat_tables(60)  # of three chunks, two and one
    apart, _ = flat_tables(60)
    guarded = []
    for table in apart[:3]:
        tasks, chunks = table.touched_chunks.shape
        guarded.append(torch.full((tasks * chunks + 100,), 7, dtype=torch.uint8, device=DEVICE))
        guarded[-1][: tasks * chunks] = 1
        table.touched_chunks = guarded[-1][: tasks * chunks].view(tasks, chunks)
    for parameters in (shared, apart):
        step_on(parameters, indices_of(9), kernels)
    for table, other, memory in zip(apart[:3], shared[:3], guarded, strict=True):
        assert torch.equal(table.touched_chunks, other.touched_chunks)
        assert (memory[-100:] == 7).all()


@pytest.mark.parametrize(("with_tasks", "accumulate"), [(True, False), (True, True), (False, False)])
def test_the_reference_sums_16_bit_gradients_of_rows_that_thousands_of_tokens_share_in_fp32(with_tasks, accumulate):
    tokens, columns = 8192, 24
    rows = task_rows((tokens // 4, tokens - tokens // 4), accumulate=accumulate) if with_tasks else None
    draw = torch.Generator().manual_seed(1)
    indices = [torch.randint(0, size, (tokens,), generator=draw, dtype=torch.int32).to(DEVICE) for size in SIZES]
    upstream = (torch.randn(tokens, columns, generator=draw) + 0.3).to(DEVICE)

    def gradients(dtype):
        tables, norms = tensors(columns)
        tables = [table.to(DEVICE, dtype).requires_grad_() for table in tables]
        norms = [norm.to(DEVICE, torch.promote_types(dtype, torch.float32)).requires_grad_() for norm in norms]
        if with_tasks:
            for parameter in (*tables, *norms):
                start = 1.0 if accumulate else torch.nan
                parameter.task_gradients = torch.full((2, *parameter.shape), start, device=DEVICE, dtype=dtype)
        with using_kernels("torch"):
            embedding(*indices, tuple(tables), *norms, 1e-12, None, rows).backward(upstream.to(dtype))
        return [table.task_gradients if with_tasks else table.grad for table in tables]

    for found, exact in zip(gradients(torch.bfloat16), gradients(torch.float64), strict=True):
        assert found.dtype == torch.bfloat16
        # Activations and the result are rounded to 8 bits, and nothing more is lost.
        assert_close(found, exact, TOLERANCES[torch.bfloat16] / 5)


@pytest.mark.slow
def test_torch_compile_takes_the_op_whole():
    tables, norms = tensors(16)
    tables, norms = ([tensor.to(DEVICE).requires_grad_() for tensor in group] for group in (tables, norms))
    rows, indices = task_rows((4, 5)), indices_of(9)

    def function():
        return embedding(*indices, tuple(tables), *norms, 1e-12, None, rows)

    def gradients(call):
        for parameter in (*tables, *norms):
            parameter.task_gradients = torch.full((2, *parameter.shape), torch.nan, device=DEVICE)
        y = call()
        (y * torch.arange(16.0, device=DEVICE)).sum().backward()
        return y.detach(), *(parameter.task_gradients for parameter in (*tables, *norms))

    with using_kernels("triton"):
        expected = gradients(function)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for value, other in zip(gradients(compiled), expected, strict=True):
            assert torch.equal(value, other)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_where_words_are_tied_their_gradients_add_to_the_decoders(accumulate, kernels):
    tables, norms = ([tensor.to(DEVICE).requires_grad_() for tensor in group] for group in tensors(24))
    rows, upstream = task_rows((4, 0, 5), accumulate=accumulate), torch.randn(9, 24, device=DEVICE)

    def gradients(start, tied_words):
        for parameter, value in zip((*tables, *norms), start, strict=True):
            parameter.task_gradients = torch.full((3, *parameter.shape), value, device=DEVICE)
        with using_kernels(kernels):
            y = embedding(*indices_of(9), tuple(tables), *norms, 1e-12, None, rows, tied_words=tied_words)
            y.backward(upstream)
        return [parameter.task_gradients for parameter in (*tables, *norms)]

    expected = gradients([0.0] * 5, False)
    others = 0.0 if accumulate else torch.nan
    found = gradients([2.0, *[others] * 4], True)
    assert_close(found[0], expected[0] + 2, TOLERANCES[torch.float32])
    for value, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(value, other)
