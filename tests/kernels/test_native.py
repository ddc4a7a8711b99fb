"""The native kernels of a CPU: parity with references in higher precision, and the same bits by any threads."""

import dataclasses

import numpy as np
import pytest
import torch

from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.deposits import deposit_sum
from concord.kernels.dispatch import launchers, using_kernels
from concord.kernels.dropout import Dropout
from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.native import build
from concord.kernels.native.build import Native, native_library
from concord.kernels.ops import OPS
from concord.kernels.surgery.adamw import combine_adamw_
from concord.kernels.surgery.gram import gram_matrix
from concord.kernels.tolerances import TOLERANCES, allowed_error, relative_error

DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = np.array([1, 3, 7, 8, 9, 16, 17, 31, 33, 64, 65, 130])
SEQUENCES, TOKENS = HostSequences(LENGTHS), int(LENGTHS.sum())
ROWS = TaskRows.of_counts([100, 0, 37, TOKENS - 137 - 5])  # five rows are no task's

needs_native = pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there")


def dropout(rate):
    return Dropout(rate, torch.tensor(2**62 + 12345), 70000) if rate else None


def attention_of(inputs, rate):
    return attention(inputs[0], SEQUENCES, dropout(rate))


def first_token_attention_of(inputs, rate):
    return first_token_attention(*inputs, SEQUENCES, dropout(rate))


def gelu_of(inputs, rate):
    return bias_gelu(*inputs)


def layer_norm_of(inputs, rate):
    return add_layer_norm(*inputs, 1e-12, dropout(rate))


def embedding_of(inputs, rate):
    numbers = torch.arange(TOKENS, dtype=torch.int32)
    return embedding(numbers * 7 % 50, numbers % 20, numbers % 2, tuple(inputs[:3]), *inputs[3:], 1e-12, dropout(rate))


def weight(n):
    return 1 + 0.1 * torch.randn(n)


# Op -> its computation, and inputs for a width: vectors stay in fp32.
CASES = {
    "attention": (attention_of, lambda n: [torch.randn(TOKENS, 3, 2, n // 2)]),
    "first_token_attention": (
        first_token_attention_of,
        lambda n: [torch.randn(len(LENGTHS), 2, n // 2), torch.randn(TOKENS, 2, 2, n // 2)],
    ),
    "bias_gelu": (gelu_of, lambda n: [3 * torch.randn(TOKENS, n), torch.randn(n)]),
    "add_layer_norm": (
        layer_norm_of,
        lambda n: [torch.randn(TOKENS, n), torch.randn(n), torch.randn(TOKENS, n), weight(n), torch.randn(n)],
    ),
    "embedding": (
        embedding_of,
        lambda n: [*(torch.randn(size, n) for size in (50, 20, 2)), weight(n), torch.randn(n)],
    ),
}


def computed(op, inputs, dtype, rate, kernels):
    """The result and the inputs' gradients, in `dtype` but for vectors, which are fp32 unless all is fp64."""
    function, _ = CASES[op]
    wide = torch.promote_types(dtype, torch.float32)
    own = [value.to(dtype if value.ndim > 1 else wide, copy=True).requires_grad_() for value in inputs]
    with using_kernels(kernels):
        result = function(own, rate)
        upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(3)).to(inputs[0].dtype)
        result.backward(upstream.to(dtype))
    return [result.detach(), *(value.grad for value in own)]


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("width", [6, 64, 96, 200])
@pytest.mark.parametrize("op", CASES)
def test_results_and_gradients_are_at_most_twice_as_far_off_as_torchs(op, width, rate, dtype):
    # Rounded first, so that all compute from the same numbers.
    inputs = [value.to(dtype).float() if value.ndim > 1 else value for value in CASES[op][1](width)]
    exact = computed(op, inputs, torch.float64, rate, "torch")
    same_dtype = computed(op, inputs, dtype, rate, "torch")
    found = computed(op, inputs, dtype, rate, "native")
    again = computed(op, inputs, dtype, rate, "native")
    for own, second, torchs, expected in zip(found, again, same_dtype, exact, strict=True):
        assert torch.equal(own, second)
        assert relative_error(own, expected) <= allowed_error(torchs, expected, dtype)


@needs_native
@pytest.mark.parametrize("op", CASES)
def test_bits_do_not_depend_on_the_number_of_threads(op):
    inputs, threads = CASES[op][1](64), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = computed(op, inputs, torch.float32, 0.1, "native")
        torch.set_num_threads(3)
        three = computed(op, inputs, torch.float32, 0.1, "native")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(left, right) for left, right in zip(one, three, strict=True))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attentions_rows_after_the_last_sequence_are_zero(dtype):
    cu_seqlens, no_dropout = torch.tensor([0, 3, 10], dtype=torch.int32), (None, 0, 0, 1.0)
    qkv, library = torch.randn(14, 3, 2, 24).to(dtype), torch.ops.concord_native
    for _ in range(3):  # memory that was used before
        torch.full((14, 3, 2, 24), torch.nan, dtype=dtype), torch.full((14, 2, 24), torch.nan, dtype=dtype)
        out, log_sums = library.attention_forward(qkv, cu_seqlens, 7, *no_dropout)
        d_qkv = library.attention_backward(torch.ones_like(out), qkv, out, log_sums, cu_seqlens, 7, *no_dropout)
        assert not out[10:].any() and not d_qkv[10:].any()
        assert out[:10].isfinite().all() and d_qkv[:10].isfinite().all() and out[:10].any(-1).all()


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_first_tokens_of_empty_sequences_and_rows_after_the_last_have_zeros(dtype):
    cu_seqlens, no_dropout = torch.tensor([0, 3, 3, 10], dtype=torch.int32), (None, 0, 0, 1.0)
    q, kv, library = torch.randn(3, 2, 24).to(dtype), torch.randn(14, 2, 2, 24).to(dtype), torch.ops.concord_native
    for _ in range(3):  # memory that was used before
        torch.full((14, 2, 2, 24), torch.nan, dtype=dtype), torch.full((3, 2, 24), torch.nan, dtype=dtype)
        out, exact, log_sums = library.first_token_forward(q, kv, cu_seqlens, *no_dropout)
        arguments = (torch.ones_like(out), q, kv, exact, log_sums, cu_seqlens, *no_dropout)
        d_q, d_kv = library.first_token_backward(*arguments)
        assert not out[1].any() and not exact[1].any() and not d_q[1].any() and not d_kv[10:].any()
        assert all(value.isfinite().all() for value in (out, exact, log_sums, d_q, d_kv))
        assert out[[0, 2]].any(-1).all() and d_kv[:10].any(-1).all()


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [5, 384, 3000])
def test_tables_gradients_are_written_to_the_rows_that_occur_and_their_chunks_are_flagged(columns, dtype):
    tokens, sizes, offsets = 50, (40, 30, 2), torch.tensor([0, 20, 20, 46], dtype=torch.int32)
    indices = [torch.randint(0, size, (tokens,), dtype=torch.int32) for size in sizes]
    values = torch.randn(tokens, columns).to(dtype)
    gradients = [torch.zeros(3, size * columns + 7, dtype=dtype) for size in sizes]
    tables = [own[:, : size * columns].view(3, size, columns) for own, size in zip(gradients, sizes, strict=True)]
    touched = [torch.zeros(3, -(-size * columns // CHUNK), dtype=torch.uint8) for size in sizes]
    tables[0][1, 0], touched[0][1, : -(-columns // CHUNK)] = 1.0, 1  # what the step before has written

    def expected(row_sets):
        found = [torch.zeros(3, size, columns, dtype=torch.float64) for size in sizes]
        for table, index in zip(found, indices, strict=True):
            for task in range(3):
                rows = slice(offsets[task], offsets[task + 1])
                table[task].index_add_(0, index[rows], row_sets * values[rows].double())
        return found

    for times, (add, add_words) in ((1, (False, False)), (2, (True, False)), (3, (False, True))):
        torch.ops.concord_native.table_sums(values, *indices, *tables, *touched, offsets, add, add_words)
        for number, (table, flags) in enumerate(zip(tables, touched, strict=True)):
            # Where words alone are added to, the other tables begin anew.
            right = expected(times if number == 0 or add else 1)[number]
            assert relative_error(table, right) <= TOLERANCES[dtype]
            held = torch.nn.functional.pad(table.flatten(1), (0, flags.shape[1] * CHUNK - table[0].numel()))
            assert torch.equal(flags.bool(), held.unflatten(1, (-1, CHUNK)).any(-1))


@needs_native
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (31, 384)])
def test_dropouts_bits_are_those_of_the_reference(shape):
    drop = dropout(0.25)
    with using_kernels("native"):
        found = drop.mask(shape, torch.float32)
    assert torch.equal(found, drop.mask(shape, torch.float32))


@needs_native
@pytest.mark.parametrize("accumulate", [False, True])
def test_sums_over_tasks_rows_leave_out_what_is_no_tasks(accumulate):
    values, rows = torch.randn(TOKENS, 37), dataclasses.replace(ROWS, accumulate=accumulate)
    found, expected = torch.ones(4, 40), torch.ones(4, 40)
    with using_kernels("native"):
        deposit_sum(found, rows, values, 2)
    deposit_sum(expected, rows, values, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def flat(tasks, dtype):
    parameters = {
        "table": torch.nn.Parameter(torch.randn(40, 100)),
        "layer": torch.nn.Parameter(torch.randn(65, 33)),
        "bias": torch.nn.Parameter(torch.randn(65)),
    }
    blocks = {"table": "embeddings", "layer": "layer", "bias": "layer"}
    found = FlatParameters(parameters, blocks, tasks=tasks, compute_dtype=dtype, gradient_dtype=dtype)
    for entry in found.entries:
        found.view(found.gradients, entry).normal_()
    found.touched[0, 1] = 0  # a chunk without a gradient of the first task
    found.gradients[0, CHUNK : 2 * CHUNK] = 0
    return found


@needs_native
@pytest.mark.parametrize("tasks", [1, 3, 4, 7, 16])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gram_matrix_is_that_of_fp64(tasks, dtype):
    parameters = flat(tasks, dtype)
    with using_kernels("native"):
        found = gram_matrix(parameters)
    for run in parameters.runs:
        found[run.block] -= (part := parameters.gradients[:, run.start : run.stop].double()) @ part.t()
    assert found.abs().max() < 1e-2  # of diagonals of some thousands


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_fused_step_is_the_references(dtype):
    tasks, results = 3, []
    rows = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, 1.0]])
    for kernels in ("torch", "native"):
        torch.manual_seed(1)
        parameters = flat(tasks, dtype)
        with using_kernels(kernels):
            for apply in (True, False, True):
                combine_adamw_(
                    parameters,
                    rows,
                    factor=torch.tensor(0.7),
                    step_sizes=torch.tensor([1e-3, 2e-3]),
                    shrinks=torch.tensor([0.99, 0.98]),
                    apply=torch.tensor(apply),
                )
        results.append((parameters.master, parameters.momentum, parameters.variance, parameters.compute.float()))
    for expected, found in zip(*results, strict=True):
        assert relative_error(found, expected) < 1e-5


@needs_native
def test_the_step_leaves_a_resting_block_as_it_is():
    parameters = flat(2, torch.float32)
    before = parameters.master.clone()
    with using_kernels("native"):
        combine_adamw_(
            parameters,
            torch.ones(2, 2),
            factor=torch.tensor(1.0),
            step_sizes=torch.tensor([0.0, 1e-3]),
            shrinks=torch.ones(2),
            apply=torch.tensor(True),
        )
    changed = [
        not torch.equal(before[run.start : run.stop], parameters.master[run.start : run.stop])
        for run in parameters.runs
    ]
    assert changed == [run.block == 1 for run in parameters.runs]


@needs_native
@pytest.mark.parametrize("ids", [(4, 0, 0), (-1, 0, 0), (0, 4, 0), (0, -1, 0), (0, 0, 2), (0, 0, -1)])
def test_an_id_outside_of_its_table_is_an_error(ids):
    tables = (torch.randn(4, 8), torch.randn(4, 8), torch.randn(2, 8))
    word, position, segment = (torch.tensor([1, one], dtype=torch.int32) for one in ids)
    with using_kernels("native"), pytest.raises(IndexError, match=r"token 1: .* outside of its table"):
        embedding(word, position, segment, tables, torch.ones(8), torch.zeros(8), 1e-12)


def test_ops_without_native_kernels_and_other_dtypes_are_torchs():
    def taken(op, dtype=torch.float32):
        return launchers(op, torch.zeros(1, dtype=dtype), lambda: "triton")

    with using_kernels("native"):
        assert not any(taken(op, torch.float16) for op in OPS)
        assert {op for op in OPS if taken(op)} == {op for op in OPS if OPS[op].native}
    with using_kernels("native", ["bias_gelu"]):
        assert taken("bias_gelu") is None
    with using_kernels("triton"):
        assert taken("bias_gelu") == "triton"


@pytest.mark.slow
def test_what_does_not_compile_is_said_in_a_line_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "native.cpp"
    source.write_text("int wrong(;\n")
    monkeypatch.setattr(build, "SOURCE", source)
    library = build.native_library.__wrapped__()
    assert library.missing.startswith("the native kernels do not compile here: ")
    assert "error" in library.missing and "\n" not in library.missing
    assert not list(build.cache_folder().glob("*.so"))


def test_without_a_compiler_or_its_instructions_it_is_said_why(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in build.native_library.__wrapped__().missing
    monkeypatch.setattr(build, "instruction_set", lambda: "DEFAULT")
    assert "this processor has DEFAULT" in build.native_library.__wrapped__().missing
    monkeypatch.setattr(build.sys, "platform", "win32")
    assert build.native_library.__wrapped__() == Native(missing="native kernels are built on x86-64 Linux alone")
