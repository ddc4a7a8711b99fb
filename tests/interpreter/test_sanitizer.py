"""What the sanitizer finds: each kind of fault in small kernels, in every order, and nothing where there is none."""

import inspect
import tracemalloc

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import GridExecutor, interpreter_builder

from tests.interpreter.findings import Kind
from tests.interpreter.order import ORDERS
from tests.interpreter.sanitizer import Sanitizer
from tests.interpreter.support import BF16_IS_TRUE

pytestmark = pytest.mark.skipif(not BF16_IS_TRUE, reason="needs the interpreter of Triton 3.7")


def found(launch, order="shuffle", seed=0):
    """What the sanitizer has to say of `launch()`."""
    with Sanitizer(order, seed) as sanitizer:
        launch()
    return sanitizer.findings.take()


def kinds(launch, order="shuffle"):
    return {finding.kind for finding in found(launch, order)}


def line_of(kernel, code):
    """file:line of a line of `kernel`."""
    lines, first = inspect.getsourcelines(kernel.fn)
    number = next(number for number, line in enumerate(lines) if code in line)
    return f"tests/interpreter/{__name__.rpartition('.')[2]}.py:{first + number}"


# ----- programs that conflict -----


@triton.jit
def _pass_on_kernel(x, DISTANCE: tl.constexpr):
    program = tl.program_id(0)
    value = tl.load(x + program)
    tl.store(x + program + DISTANCE, value)


@pytest.mark.parametrize("order", ORDERS)
def test_a_program_that_stores_where_another_loads_is_found_in_every_order(order):
    x = torch.arange(5.0)
    assert kinds(lambda: _pass_on_kernel[(4,)](x, 1), order) <= {Kind.READ_OF_WRITTEN, Kind.WRITE_OF_READ}
    assert kinds(lambda: _pass_on_kernel[(4,)](x, 1), order)


def test_the_kind_depends_on_who_came_first():
    x = torch.arange(5.0)
    assert kinds(lambda: _pass_on_kernel[(4,)](x, 1), "forward") == {Kind.READ_OF_WRITTEN}
    assert kinds(lambda: _pass_on_kernel[(4,)](x, 1), "reverse") == {Kind.WRITE_OF_READ}


@pytest.mark.parametrize("order", ORDERS)
def test_programs_that_keep_to_themselves_are_clean(order):
    x = torch.arange(8.0)
    assert not found(lambda: _pass_on_kernel[(4,)](x, 0), order)
    assert not found(lambda: _pass_on_kernel[(4,)](x, 4), order)


@triton.jit
def _load_where_wanted_kernel(x, y, wanted):
    at = tl.arange(0, 4)
    tl.store(y + at, tl.load(x + at, mask=tl.load(wanted) != 0, other=-1.0))


@pytest.mark.parametrize(("wanted", "expected"), [(5, [0.0, 1.0, 2.0, 3.0]), (0, [-1.0] * 4)])
def test_a_scalar_may_be_the_mask_of_a_whole_tile(wanted, expected):
    x, y = torch.arange(4.0), torch.empty(4)
    assert not found(lambda: _load_where_wanted_kernel[(1,)](x, y, torch.tensor([wanted])))
    assert y.tolist() == expected


@triton.jit
def _all_store_kernel(y, SAME: tl.constexpr):
    tl.store(y, 7 if SAME else tl.program_id(0))


@pytest.mark.parametrize("order", ORDERS)
def test_programs_may_store_the_same_value_to_one_address_and_no_other(order):
    y = torch.zeros(1, dtype=torch.int32)
    assert kinds(lambda: _all_store_kernel[(3,)](y, False), order) == {Kind.WRITE_OF_WRITTEN}
    assert not found(lambda: _all_store_kernel[(3,)](y, True), order)


@triton.jit
def _gather_kernel(x, y, READERS: tl.constexpr):
    program = tl.program_id(0)
    if program < READERS:
        tl.store(y + program, tl.load(x))
    else:
        tl.store(x, 1.0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_one_writer_among_any_number_of_readers_is_found(readers, order):
    x, y = torch.zeros(1), torch.zeros(8)
    assert kinds(lambda: _gather_kernel[(readers + 1,)](x, y, readers), order)
    assert not found(lambda: _gather_kernel[(readers,)](x, y, readers), order)


@triton.jit
def _words_and_bytes_kernel(words, single, AT: tl.constexpr):
    if tl.program_id(0) == 0:
        tl.store(single + AT, 1)
    else:
        tl.store(words + 2, tl.load(words + 1))


@pytest.mark.parametrize(("at", "conflicts"), [(3, False), (4, True), (7, True), (8, True), (11, True), (12, False)])
def test_accesses_of_different_widths_meet_byte_by_byte(at, conflicts):
    words = torch.zeros(4, dtype=torch.int32)
    launch = lambda: _words_and_bytes_kernel[(2,)](words, words.view(torch.int8), at)  # noqa: E731
    assert all(bool(found(launch, order)) == conflicts for order in ORDERS)


# ----- a program that conflicts with itself -----


@triton.jit
def _twice_kernel(y, z, LOADS: tl.constexpr, SHIFT: tl.constexpr, BARRIER: tl.constexpr):
    at = tl.arange(0, 8)
    tl.store(y + at, at)
    if BARRIER:
        tl.debug_barrier()
    if LOADS:
        tl.store(z + at, tl.load(y + SHIFT + at))
    else:
        tl.store(y + SHIFT + at, at)


@pytest.mark.parametrize("shift", [0, 1, 7])
def test_a_load_of_what_the_program_has_stored_needs_a_barrier(shift):
    y, z = torch.zeros(16, dtype=torch.int32), torch.zeros(8, dtype=torch.int32)
    assert kinds(lambda: _twice_kernel[(1,)](y, z, True, shift, False)) == {Kind.LOAD_AFTER_STORE}
    assert not found(lambda: _twice_kernel[(1,)](y, z, True, shift, True))
    assert not found(lambda: _twice_kernel[(1,)](y, z, True, 8, False))


def test_another_value_where_the_program_has_stored_needs_a_barrier():
    y = torch.zeros(16, dtype=torch.int32)
    assert kinds(lambda: _twice_kernel[(1,)](y, y, False, 1, False)) == {Kind.STORE_AFTER_STORE}
    assert not found(lambda: _twice_kernel[(1,)](y, y, False, 1, True))
    assert not found(lambda: _twice_kernel[(1,)](y, y, False, 0, False))  # the same values


@triton.jit
def _overlapping_store_kernel(y, value, mask):
    at = tl.arange(0, 8)
    tl.store(y + at // 2, tl.load(value + at), mask=tl.load(mask + at) != 0)


@pytest.mark.parametrize(
    ("values", "mask", "fails"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1, 1], True),
        ([0, 0, 2, 2, 4, 4, 6, 6], [1, 1, 1, 1, 1, 1, 1, 1], False),
        ([0, 0, 2, 2, 4, 4, 6, 7], [1, 1, 1, 1, 1, 1, 1, 1], True),
        ([0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 0, 1, 1, 0, 0, 0], False),
    ],
)
def test_a_store_may_not_hold_two_values_for_one_address(values, mask, fails):
    y, values, mask = (torch.tensor(own, dtype=torch.int32) for own in ([0] * 4, values, mask))
    expected = {Kind.TWO_VALUES} if fails else set()
    assert kinds(lambda: _overlapping_store_kernel[(1,)](y, values, mask)) == expected


def test_negative_zero_is_another_value_and_nan_is_the_same():
    y, mask = torch.zeros(4), torch.ones(8, dtype=torch.int32)
    assert kinds(lambda: _overlapping_store_kernel[(1,)](y, torch.tensor([0.0, -0.0] * 4), mask)) == {Kind.TWO_VALUES}
    assert not found(lambda: _overlapping_store_kernel[(1,)](y, torch.full((8,), torch.nan), mask))


# ----- outside of the tensors given -----


@triton.jit
def _copy_kernel(x, y, load_at, store_at, limit):
    at = tl.arange(0, 4)
    values = tl.load(x + load_at + at, mask=at < limit, other=5.0)
    tl.store(y + store_at + at, values, mask=at < limit)


@pytest.mark.parametrize("store_at", [-1, 1, 4, 100])
def test_a_store_outside_is_refused(store_at):
    memory = torch.zeros(200)
    y = memory[50:54]
    (finding,) = found(lambda: _copy_kernel[(1,)](torch.ones(4), y, 0, store_at, 4))
    assert finding.kind == Kind.STORE_OUTSIDE
    assert finding.elements == min(abs(store_at), 4)
    stored = torch.zeros(200)
    stored[max(50, 50 + store_at) : min(54, 54 + store_at)] = 1
    assert torch.equal(memory, stored)


def test_an_address_that_nobody_has_does_not_end_the_process():
    y = torch.zeros(4)
    assert kinds(lambda: _copy_kernel[(1,)](y, y, 1 << 40, 0, 4)) == {Kind.LOAD_OUTSIDE}
    assert kinds(lambda: _copy_kernel[(1,)](y, y, 0, 1 << 40, 4)) == {Kind.STORE_OUTSIDE}


def test_a_load_outside_is_refused():
    memory, y = torch.full((20,), 3.0), torch.zeros(4)
    (finding,) = found(lambda: _copy_kernel[(1,)](memory[5:9], y, 2, 0, 4))
    assert (finding.kind, finding.elements) == (Kind.LOAD_OUTSIDE, 2)
    assert y.tolist() == [3.0, 3.0, 5.0, 5.0]


def test_what_is_masked_off_counts_as_nothing():
    x, y = torch.ones(2), torch.zeros(2)
    assert not found(lambda: _copy_kernel[(1,)](x, y, 0, 0, 2))
    assert not found(lambda: _copy_kernel[(1,)](x, y, 100, -100, 0))
    assert y.tolist() == [1.0, 1.0]


def test_a_pointer_may_not_leave_its_tensor_for_another_one_that_was_given():
    memory = torch.zeros(8)
    assert kinds(lambda: _copy_kernel[(1,)](memory[:4], memory[4:], 0, -2, 4)) == {Kind.STORE_OUTSIDE}
    assert kinds(lambda: _copy_kernel[(1,)](memory[:4], memory[4:], 2, 0, 4)) == {Kind.LOAD_OUTSIDE}


def test_what_lies_between_the_rows_of_a_view_is_outside():
    memory, x = torch.zeros(3, 5), torch.ones(8)
    assert not found(lambda: _copy_kernel[(1,)](x, memory[:, 1:], 0, 5, 4))
    (finding,) = found(lambda: _copy_kernel[(1,)](x, memory[:, 1:], 0, 2, 4))
    assert (finding.kind, finding.elements) == (Kind.STORE_OUTSIDE, 1)
    assert "bytes 16 to 19 of `y`, float32 [3, 4], between its elements" in finding.where
    assert not memory[:, 0].any()


def test_a_tensor_without_elements_has_no_address_at_all():
    x = torch.ones(4)
    assert kinds(lambda: _copy_kernel[(1,)](x, x[:0], 0, 0, 4)) == {Kind.STORE_OUTSIDE}


# ----- tables of addresses -----


@triton.jit
def _through_table_kernel(table, offset):
    pointer = tl.load(table + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    at = tl.arange(0, 4)
    tl.store(pointer + offset + at, tl.load(pointer + offset + at) + 1)


def addresses(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_a_table_may_name_tensors_whose_address_was_asked_for():
    with Sanitizer() as sanitizer:
        tensors = [torch.zeros(4) for _ in range(3)]
        table = addresses(*(tensor.data_ptr() for tensor in tensors))
        _through_table_kernel[(3,)](table, 0)
        assert not sanitizer.findings.take()
        assert all((tensor == 1).all() for tensor in tensors)
        _through_table_kernel[(3,)](table, 2)
        found = sanitizer.findings.take()
    assert {finding.kind for finding in found} == {Kind.LOAD_OUTSIDE, Kind.STORE_OUTSIDE}
    assert all("address 0x" in finding.where for finding in found)


def test_a_table_may_not_name_a_tensor_that_is_gone_or_that_nobody_asked_for():
    with Sanitizer() as sanitizer:
        kept = torch.zeros(4)
        view = kept[:]
        table = addresses(view.data_ptr())
        del view
        _through_table_kernel[(1,)](table, 0)
        assert sanitizer.findings.take()
        _through_table_kernel[(1,)](addresses(kept.untyped_storage().data_ptr()), 0)
        assert sanitizer.findings.take()
        itself = addresses(0, 0)
        itself[0] = itself.untyped_storage().data_ptr()
        _through_table_kernel[(1,)](itself, 0)
        assert sanitizer.findings.take()
    assert not kept.any()


def test_programs_conflict_through_tables_as_well():
    with Sanitizer() as sanitizer:
        tensor = torch.zeros(4)
        _through_table_kernel[(2,)](addresses(*[tensor.data_ptr()] * 2), 0)
        assert {Kind.READ_OF_WRITTEN} <= {finding.kind for finding in sanitizer.findings.take()}


# ----- what a finding says -----


@triton.jit
def _store_first(y, value):
    tl.store(y + 1, value)


@triton.jit
def _calling_kernel(unused, y):
    _store_first(y, tl.program_id(1))


def test_a_finding_names_kernel_lines_programs_and_bytes():
    y = torch.zeros(3, 2, dtype=torch.float16)
    (finding,) = found(lambda: _calling_kernel[(2, 2)](None, y), "forward")
    assert finding.kernel == f"{__name__}._calling_kernel"
    assert finding.lines == (line_of(_store_first, "tl.store"), line_of(_calling_kernel, "_store_first("))
    assert (finding.program, finding.other) == ((0, 1, 0), (0, 0, 0))
    assert finding.where == "bytes 2 to 3 of `y`, float16 [3, 2]"
    assert str(finding) == (
        f"{finding.lines[0]}, called at {finding.lines[1]}: program (0, 1, 0) of {finding.kernel} stores another "
        "value where program (0, 0, 0) stores: bytes 2 to 3 of `y`, float16 [3, 2]"
    )


@triton.jit
def _first_of_tuple_kernel(tensors, y):
    tl.store(y, tl.load(tensors[1] + 3))


def test_tensors_in_a_tuple_have_names_too():
    (finding,) = found(lambda: _first_of_tuple_kernel[(1,)]((torch.ones(9), torch.ones(2)), torch.ones(1)))
    assert "of `tensors[1]`" in finding.where


def test_each_launch_begins_anew():
    x = torch.arange(5.0)
    with Sanitizer() as sanitizer:
        for program in range(3):
            _pass_on_kernel[(1,)](x[program:], 1)
    assert not sanitizer.findings.take()


# ----- the order of programs -----


@triton.jit
def _record_kernel(count, seen):
    number = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    place = tl.load(count)
    tl.store(seen + place, number)
    tl.store(count, place + 1)


def recorded(order, seed=0, launches=1, grid=(3, 4, 5)):
    """In which order the programs of the last launch ran."""
    with Sanitizer(order, seed):
        for _ in range(launches):
            count, seen = torch.zeros(1, dtype=torch.int32), torch.full((60,), -1, dtype=torch.int32)
            _record_kernel[grid](count, seen)
    return seen.tolist()


def test_forward_is_the_interpreters_own_order_and_reverse_the_other_way():
    assert recorded("forward") == list(range(60))
    assert recorded("reverse") == list(range(60))[::-1]


def test_the_shuffled_order_is_that_of_its_seed_and_launch():
    orders = [recorded("shuffle", 1), recorded("shuffle", 2), recorded("shuffle", 1, launches=2), list(range(60))]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)
    assert recorded("shuffle", 1) == orders[0]
    assert recorded("shuffle", 1, launches=2) == orders[2]


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="expected one of shuffle, forward, reverse"):
        Sanitizer("backwards")


# ----- the sanitizer itself -----


@triton.jit
def _atomic_kernel(y):
    tl.atomic_add(y, 1.0)


def test_atomic_operations_are_refused():
    y = torch.zeros(1)
    with pytest.raises(InterpreterError, match="does not follow atomic operations"):
        found(lambda: _atomic_kernel[(1,)](y))
    assert y == 0


def replaceable():
    """What a sanitizer puts others in the place of."""
    builder = {name: value for name, value in vars(interpreter_builder).items() if not name.startswith("grid_")}
    return builder, GridExecutor.__call__, interpreter._implicit_cvt, torch.Tensor.data_ptr


def test_an_inner_sanitizer_takes_over_and_leaves_everything_as_it_was():
    x = torch.arange(5.0)
    before = replaceable()
    with Sanitizer() as outer:
        within = replaceable()
        assert found(lambda: _pass_on_kernel[(4,)](x, 1))
        assert replaceable() == within
        assert not outer.findings.take()
        _pass_on_kernel[(4,)](x, 1)
        assert outer.findings.take()
    assert replaceable() == before


def test_large_tensors_take_memory_for_what_is_touched_of_them_alone():
    x = torch.empty(3 << 30, dtype=torch.float16)  # pages that nobody writes take none
    x[:4] = x[-4:] = 1
    tracemalloc.start()
    assert not found(lambda: _copy_kernel[(1,)](x, torch.zeros(4), len(x) - 4, 0, 4))
    assert kinds(lambda: _copy_kernel[(2,)](x, x, 0, len(x) - 4, 4)) == set()
    assert tracemalloc.get_traced_memory()[1] < 1 << 25
    tracemalloc.stop()
