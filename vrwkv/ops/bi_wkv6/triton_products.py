"""Products of matrices for the Triton kernels of Bi-WKV6: float32 accuracy on tensor cores that multiply bfloat16.

A float32 number is the sum of bfloat16 numbers, each the nearest to what the earlier ones leave: two of them carry 17
bits, three all 24. Splitting here, rather than by `input_precision`, makes the interpreter compute what a GPU computes,
and leaves out products with remainders that are known to be zero. float32 inputs take "ieee" products instead.
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops import triton_runtime

INTERPRETED = tl.constexpr(triton_runtime.INTERPRETED)
FACTOR = tl.constexpr(tl.float32 if triton_runtime.INTERPRETED else tl.bfloat16)  # the interpreter's takes no bfloat16


@triton.jit
def nearest_bfloat16(x):
    """`x` (float32, below 1e33) rounded to bfloat16 and returned as float32."""
    if INTERPRETED:  # which truncates; this is Veltkamp's way to keep 8 bits of 24
        large = x * 65537.0
        return large - (large - x)
    else:
        return x.to(tl.bfloat16).to(tl.float32)


@triton.jit
def to_type(x, TYPE: tl.constexpr):
    """`x` (float32) in another floating-point type, rounded to nearest."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        return tl.where(tl.abs(x) < 1e33, nearest_bfloat16(x), x).to(TYPE)
    else:
        return x.to(TYPE)


@triton.jit
def add_product(
    total, a, b, A_FITS: tl.constexpr, B_FITS: tl.constexpr, FULL: tl.constexpr, REMAINDERS: tl.constexpr = False
):
    """`total` (None for zero) plus the product of (M, K) and (K, N), to float32 accuracy or, without FULL, to 2^-17.

    A_FITS and B_FITS say which of the two have no more bits than bfloat16 has, REMAINDERS whether to multiply the two
    remainders with each other, too. One accumulator takes all terms: fewer registers for products in flight.
    """
    if FULL:
        return tl.dot(a, b, total, input_precision="ieee")
    else:
        a_first = a if A_FITS else nearest_bfloat16(a)
        b_first = b if B_FITS else nearest_bfloat16(b)
        if REMAINDERS:
            a_rest, b_rest = nearest_bfloat16(a - a_first), nearest_bfloat16(b - b_first)
            total = tl.dot(a_rest.to(FACTOR), b_rest.to(FACTOR), total, input_precision="ieee")
        if not A_FITS:
            a_rest = nearest_bfloat16(a - a_first)
            total = tl.dot(a_rest.to(FACTOR), b_first.to(FACTOR), total, input_precision="ieee")
        if not B_FITS:
            b_rest = nearest_bfloat16(b - b_first)
            total = tl.dot(a_first.to(FACTOR), b_rest.to(FACTOR), total, input_precision="ieee")
        return tl.dot(a_first.to(FACTOR), b_first.to(FACTOR), total, input_precision="ieee")


@triton.jit
def add_chosen_rows(total, chosen, x, FULL: tl.constexpr):
    """`total` (None for zero) plus, for each row of `chosen` (M, K) bool, the rows of `x` (K, N) that it chooses.

    Nothing is subtracted: terms are taken to 24 bits with FULL and to 17 without.
    """
    weights = tl.where(chosen, 1.0, 0.0).to(FACTOR)
    if INTERPRETED and FULL:  # three terms are all of x
        return tl.dot(weights, x, total, input_precision="ieee")
    first = nearest_bfloat16(x)
    second = nearest_bfloat16(x - first)
    if FULL:
        total = tl.dot(weights, (x - first - second).to(FACTOR), total)
    total = tl.dot(weights, second.to(FACTOR), total, input_precision="ieee")
    return tl.dot(weights, first.to(FACTOR), total, input_precision="ieee")
