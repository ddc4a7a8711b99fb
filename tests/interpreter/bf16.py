"""bf16 in Triton's interpreter as hardware computes it: every operation is rounded once, to the nearest, ties to even.

The interpreter holds a tile of bf16 as its bits, an array of uint16, and adds and multiplies these as if they were
integers; its casts from fp32 cut off. Here a tile becomes fp32, which holds bf16 exactly, and a result is rounded. In
one sum or product that equals a single rounding, because fp32 has more than twice the digits of bf16.
"""

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle

_cast = InterpreterBuilder.cast_impl
_binary = InterpreterBuilder.binary_op
_fma = InterpreterBuilder.create_fma
_dot = InterpreterBuilder.create_dot
_sum = ReduceOps.sum


def to_float(bits: np.ndarray) -> np.ndarray:
    """The values of bf16 `bits` (uint16), fp32 of the same shape; exact."""
    return np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)


def to_bits(values: np.ndarray) -> np.ndarray:
    """The bits (uint16) of `values`, fp32 or fp64, rounded to bf16. NaN gives 0x7FC0."""
    with np.errstate(over="ignore"):
        single = np.asarray(values, np.float32)
    bits = single.view(np.uint32)
    if values.dtype == np.float64:
        # Two roundings to the nearest may differ from one. The first is therefore to odd: towards zero, with the last
        # bit set where something was cut off, so that the second still sees on which side of a tie the value lies.
        bits = bits - (np.abs(single) > np.abs(values)) | (single != values)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16)


def _is_bf16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(to_float(handle.data), tl.float32)


def _rounded(values: np.ndarray) -> TensorHandle:
    return TensorHandle(to_bits(values), tl.bfloat16)


def _cast_impl(self, source, target):
    if _is_bf16(source):
        source = _widened(source)
    if target.scalar != tl.bfloat16:
        return _cast(self, source, target)
    # Integers go through fp32, as in torch.
    return _rounded(source.data if source.data.dtype == np.float64 else source.data.astype(np.float32))


def _binary_op(self, left, right, operation):
    if not _is_bf16(left):
        return _binary(self, left, right, operation)
    values = operation(to_float(left.data), to_float(right.data))
    return TensorHandle(values, tl.int1) if values.dtype == bool else _rounded(values)


def _create_fma(self, x, y, z):
    if _is_bf16(z):
        raise NotImplementedError("tl.fma of bf16 is not interpreted: widen its operands to fp32")
    return _fma(self, x, y, z)


def _create_dot(self, a, b, total, *options):
    if _is_bf16(a):
        a, b = _widened(a), _widened(b)
    return _dot(self, a, b, total, *options)


def _get_bf16(self, value):
    return _rounded(np.array([value], np.float32))


def _reduce_sum(self, tile):
    """Halves are added until one element is left, each sum rounded, as a GPU's threads add bf16."""
    if tile.dtype != tl.bfloat16:
        return _sum(self, tile)
    bits, axis = tile.handle.data, self.axis
    shape = [1 if axis in (None, index) else size for index, size in enumerate(bits.shape)]
    bits = bits.reshape(-1) if axis is None else np.moveaxis(bits, axis, 0)
    while len(bits) > 1:
        half = len(bits) // 2
        bits = to_bits(to_float(bits[:half]) + to_float(bits[half:]))
    return self.to_tensor(bits.reshape(shape) if self.keep_dims else bits[0], tile.dtype)


def install() -> None:
    """Make the interpreter's bf16 true, for the whole process."""
    InterpreterBuilder.cast_impl = _cast_impl
    InterpreterBuilder.binary_op = _binary_op
    InterpreterBuilder.create_fma = _create_fma
    InterpreterBuilder.create_dot = _create_dot
    InterpreterBuilder.get_bf16 = _get_bf16
    ReduceOps.sum = _reduce_sum
