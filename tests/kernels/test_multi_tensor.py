"""The Gram matrix and the combination of gradients that lie apart against fp64, with reference and kernels."""

import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.surgery.multi_tensor import combine_tensors, gram_of_tensors
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE

SIZES = [1, 3, 1023, 5000, 2048, 20480]  # the last one is two spans, both of whole columns
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.fixture(params=["torch", "triton"], autouse=True)
def use_kernels(request):
    with using_kernels(request.param):
        yield


def random_gradients(tasks, dtypes=(torch.float32,), sizes=SIZES):
    """[P][T]: every size in every dtype."""
    shapes = [(size, dtype) for size in sizes for dtype in dtypes]
    return [[torch.randn(size, device=DEVICE).to(dtype) for _ in range(tasks)] for size, dtype in shapes]


def random_coefficients(gradients, dtype=torch.float32):
    return torch.randn(len(gradients), len(gradients[0]), device=DEVICE, dtype=dtype)


def exact_rows(own):
    """One parameter's gradients in fp64, zeros where there is none: [T, size]."""
    example = next(gradient for gradient in own if gradient is not None)
    rows = [torch.zeros_like(example) if gradient is None else gradient for gradient in own]
    return torch.stack([row.double().flatten() for row in rows])


def exact_gram(gradients):
    return sum(rows @ rows.t() for rows in map(exact_rows, gradients))


def check(gradients, coefficients=None):
    """Both functions against fp64; a second call gives the same bits."""
    coefficients = random_coefficients(gradients) if coefficients is None else coefficients
    gram, merged = gram_of_tensors(gradients), combine_tensors(gradients, coefficients)
    assert gram.dtype == torch.float64
    assert_close(gram, exact_gram(gradients), TOLERANCES[torch.float32])
    assert torch.equal(gram, gram_of_tensors(gradients))
    again = combine_tensors(gradients, coefficients)
    for found, repeated, own, row in zip(merged, again, gradients, coefficients.double(), strict=True):
        example = next(gradient for gradient in own if gradient is not None)
        assert (found.dtype, found.shape) == (example.dtype, example.shape)
        assert_close(found.flatten(), row @ exact_rows(own), TOLERANCES[found.dtype])
        assert torch.equal(found, repeated)


@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
def test_sizes_of_every_kind(tasks, poisoned):
    check(random_gradients(tasks))


@pytest.mark.parametrize("coefficients", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [2, 3])
def test_parameters_of_different_dtypes_in_one_call(tasks, coefficients, poisoned):
    gradients = random_gradients(tasks, DTYPES, sizes=[3, 1023, 2048])
    check(gradients, random_coefficients(gradients, coefficients))


def test_fp64_keeps_its_digits():
    gradients = random_gradients(3, [torch.float64], sizes=[7, 1023])
    assert_close(gram_of_tensors(gradients), exact_gram(gradients), TOLERANCES[torch.float64])
    coefficients = random_coefficients(gradients, torch.float64)
    for found, own, row in zip(combine_tensors(gradients, coefficients), gradients, coefficients, strict=True):
        assert_close(found, row @ torch.stack(own), TOLERANCES[torch.float64])


def test_a_task_that_does_not_reach_a_parameter_counts_as_zeros(poisoned):
    gradients = random_gradients(3, [torch.float32, torch.bfloat16])
    for index, own in enumerate(gradients):
        own[index % 3] = None
        own[(index // 3) % 3] = None
    check(gradients)


def test_a_coefficient_that_is_not_finite_concerns_only_gradients_that_exist():
    gradients = random_gradients(2, sizes=[5])
    gradients.append([None, torch.ones(4, device=DEVICE)])
    coefficients = torch.tensor([[torch.nan, 1.0], [torch.nan, 2.0]], device=DEVICE)
    first, second = combine_tensors(gradients, coefficients)
    assert first.isnan().all()
    assert torch.equal(second, torch.full_like(second, 2.0))


def test_gradients_that_are_not_contiguous_keep_their_shape(poisoned):
    transposed = [torch.randn(40, 60, device=DEVICE).t() for _ in range(2)]
    strided = [torch.randn(3000, device=DEVICE)[::2] for _ in range(2)]
    expanded = [torch.randn((), device=DEVICE).expand(7, 5) for _ in range(2)]
    mixed = [torch.randn(40, 60, device=DEVICE).t(), torch.randn(60, 40, device=DEVICE)]
    check([transposed, strided, expanded, mixed, [transposed[0], None]])


def test_merged_gradients_have_the_strides_of_what_they_are_to_be_like(poisoned):
    like = [
        torch.empty(4, 3, 2, 2, device=DEVICE).to(memory_format=torch.channels_last),
        torch.empty(5, 7, device=DEVICE).t(),
        torch.empty(3, device=DEVICE).expand(2, 3),  # elements overlap: contiguous then
    ]
    gradients = [[torch.randn(one.shape, device=DEVICE) for _ in range(2)] for one in like]
    gradients[0][1] = gradients[0][1].to(memory_format=torch.channels_last)
    coefficients = random_coefficients(gradients)
    merged = combine_tensors(gradients, coefficients, like)
    assert [one.stride() for one in merged] == [like[0].stride(), like[1].stride(), (3, 1)]
    for found, own, row in zip(merged, gradients, coefficients.double(), strict=True):
        exact = sum(weight * gradient.double() for weight, gradient in zip(row, own, strict=True))
        assert_close(found, exact, TOLERANCES[torch.float32])
    assert_close(gram_of_tensors(gradients), exact_gram(gradients), TOLERANCES[torch.float32])


def test_more_tasks_than_the_kernels_take(poisoned):
    check(random_gradients(20, sizes=[3, 70_000]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_that_begin_anywhere(dtype, poisoned):
    gradients = []
    for size in (1024, 2048, 5000):
        for offset in range(1, 5):
            unaligned = torch.randn(size + offset, device=DEVICE).to(dtype)[offset:]
            gradients.append([torch.randn(size, device=DEVICE).to(dtype), unaligned])
    check(gradients)


def test_scalars_and_empty_parameters():
    gradients = [[torch.randn((), device=DEVICE) for _ in range(2)], [torch.zeros(0, 4, device=DEVICE)] * 2]
    check(gradients, torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=DEVICE))


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_shows_in_its_tasks_diagonal(value):
    gradients = random_gradients(3)
    gradients[-1][1][-1] = value
    gradients[0][2] = None
    assert torch.isfinite(gram_of_tensors(gradients).diagonal()).tolist() == [True, False, True]
    merged = combine_tensors(gradients, torch.ones(len(gradients), 3, device=DEVICE))
    assert [bool(torch.isfinite(tensor).all()) for tensor in merged] == [True] * (len(SIZES) - 1) + [False]


def test_autocast_around_the_call_changes_nothing():
    gradients = random_gradients(2)
    coefficients = random_coefficients(gradients)
    with torch.autocast(DEVICE, torch.bfloat16):
        check(gradients, coefficients)


def test_nothing_is_read_on_the_host():
    gradients = [[torch.zeros(5, device="meta"), None], [torch.zeros(3, device="meta")] * 2]
    with using_kernels("torch"):
        assert gram_of_tensors(gradients).shape == (2, 2)
        assert combine_tensors(gradients, torch.ones(2, 2, device="meta"))[1].shape == (3,)


@pytest.mark.parametrize(
    ("gradients", "reason"),
    [
        ([], "gradients of no task: expected at least one"),
        ([[torch.ones(1)] * 2, [torch.ones(1)] * 3], "parameter 1 has 3 gradients, others have 2"),
        ([[None, None]], "no task has a gradient"),
        ([[torch.ones(2), torch.ones(3)]], "parameter 0 differ in shape"),
        ([[torch.ones(2), torch.ones(2).double()]], "parameter 0 differ in shape, dtype"),
        ([[torch.ones(2)], [torch.ones(2, device="meta")]], "parameter 1 differ in shape, dtype or device"),
        ([[torch.ones(2).to_sparse()]], "expected a dense one"),
        ([[torch.ones(2, dtype=torch.complex64)]], "expected a dense one of fp32"),
    ],
)
def test_gradients_that_do_not_fit_together_are_refused(gradients, reason):
    with pytest.raises(ValueError, match=reason):
        gram_of_tensors(gradients)


def test_a_combination_needs_a_row_and_a_gradient_for_each_parameter():
    gradients = [[torch.ones(2), None], [None, None]]
    with pytest.raises(ValueError, match=r"coefficients \[1, 2\]: expected \[2, 2\]"):
        combine_tensors(gradients, torch.ones(1, 2))
    with pytest.raises(ValueError, match="no task has a gradient for parameter 1"):
        combine_tensors(gradients, torch.ones(2, 2))
