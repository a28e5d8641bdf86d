"""Products of matrices for the Triton kernels of Bi-WKV6: float32 accuracy on tensor cores that multiply bfloat16.

A float32 number is the sum of bfloat16 numbers, each the nearest to what the earlier ones leave: two of them carry 17
bits, three all 24. Splitting here, rather than by `input_precision`, makes the interpreter compute what a GPU computes,
and leaves out products with remainders that are known to be zero.
"""

# mypy: allow-untyped-defs
import triton
import triton.language as tl

from vrwkv.ops import triton_runtime
from vrwkv.ops.triton_arithmetic import BFLOAT16

INTERPRETED = tl.constexpr(triton_runtime.INTERPRETED)


def _split_assembly(terms: int) -> str:
    """`split` in NVIDIA's instructions for two elements at a time, which the compiler would convert one by one.

    Operands: the pairs of first, second, … terms, then the two elements.
    """
    lines = [".reg .b32 low, high, taken;", f"mov.b32 low, ${terms};", f"mov.b32 high, ${terms + 1};"]
    for term in range(terms):
        if term > 0:
            lines += [f"shl.b32 taken, ${term - 1}, 16;", "sub.f32 low, low, taken;"]
            lines += [f"and.b32 taken, ${term - 1}, 0xffff0000;", "sub.f32 high, high, taken;"]
        lines.append(f"cvt.rn.bf16x2.f32 ${term}, high, low;")
    return "{\n" + "\n".join(lines) + "\n}"


TWO_TERMS = tl.constexpr(_split_assembly(2))
THREE_TERMS = tl.constexpr(_split_assembly(3))


@triton.jit
def nearest_bfloat16(x):
    """`x` (float32, below 1e33) rounded to bfloat16 and returned as float32: for the interpreter, which truncates.

    Veltkamp's way to keep 8 bits of 24.
    """
    large = x * 65537.0
    return large - (large - x)


@triton.jit
def to_type(x, TYPE: tl.constexpr):
    """`x` (float32) in another floating-point type, rounded to nearest."""
    if INTERPRETED and tl.bfloat16 == TYPE:
        return tl.where(tl.abs(x) < 1e33, nearest_bfloat16(x), x).to(TYPE)
    else:
        return x.to(TYPE)


@triton.jit
def split(x, TERMS: tl.constexpr):
    """`x` (float32) as a sum of TERMS bfloat16 numbers, largest first."""
    if BFLOAT16 and TERMS == 2:
        return tl.inline_asm_elementwise(
            TWO_TERMS, "=r,=r,r,r", [x], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
        )
    elif BFLOAT16 and TERMS == 3:
        return tl.inline_asm_elementwise(
            THREE_TERMS, "=r,=r,=r,r,r", [x], dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
        )
    else:
        terms = ()
        for _ in tl.static_range(TERMS):
            # The interpreter's products take no bfloat16.
            term = nearest_bfloat16(x) if INTERPRETED else x.to(tl.bfloat16)
            terms += (term,)  # type: ignore[assignment]
            x = x - term.to(tl.float32)
        return terms


@triton.jit
def add_product(total, a, b, A_TERMS: tl.constexpr, B_TERMS: tl.constexpr, TERMS: tl.constexpr):
    """`total` (None for zero) plus the product of a (M, K) and b (K, N), each split into its number of terms.

    Products of terms that together are past the first TERMS are left out: they are below the accuracy. One accumulator
    takes all others, small ones first.
    """
    if total is None:
        total = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    if INTERPRETED and TERMS == 3:  # three terms are all of a float32
        return tl.dot(a, b, total, input_precision="ieee")
    a_terms, b_terms = split(a, A_TERMS), split(b, B_TERMS)
    for order in tl.static_range(TERMS):
        for i in tl.static_range(A_TERMS):
            for j in tl.static_range(B_TERMS):
                if i + j == TERMS - 1 - order:
                    total = tl.dot(a_terms[i], b_terms[j], total)
    return total


@triton.jit
def add_chosen(total, x, chosen, TERMS: tl.constexpr):
    """`total` (None for zero) plus, for each column of `chosen` (K, N) bool, the sum of the columns of `x` (M, K) that
    it chooses. Nothing is subtracted."""
    return add_product(total, x, tl.where(chosen, 1.0, 0.0), TERMS, 1, TERMS)
