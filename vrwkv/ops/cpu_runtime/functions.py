"""Functions of vectors, for compiled kernels."""

from numba import njit

from vrwkv.ops.cpu_runtime.vectors import (
    BFLOAT16,
    fused,
    load32,
    load_bfloat16,
    maximum,
    store32,
    store_bfloat16,
    times_power_of_two,
)

LOG2_E = 1.4426950408889634
# Adding and subtracting it rounds to a whole number, which then stands in the last bits of the mantissa.
ROUND32, ROUND64 = 1.5 * 2.0**23, 1.5 * 2.0**52

inlined = njit(
    forceinline=True,
    error_model="numpy",
    fastmath={"contract", "nsz"},
    no_cpython_wrapper=True,  # they are called by kernels only, and compile faster so
    no_cfunc_wrapper=True,
)


@inlined
def load(address, storage):  # type: ignore[no-untyped-def]
    """16 numbers stored as FLOAT32 or BFLOAT16, as a float32 vector."""
    if storage == BFLOAT16:
        return load_bfloat16(address)
    return load32(address)


@inlined
def store(address, storage, value):  # type: ignore[no-untyped-def]
    """Write a float32 vector as FLOAT32 or BFLOAT16."""
    if storage == BFLOAT16:
        store_bfloat16(address, value)
    else:
        store32(address, value)


@inlined
def exp2(x):  # type: ignore[no-untyped-def]
    """2^x of a float32 vector within 2.5e-7, for x < 127; anything below -126 counts as -126. NaN stays NaN."""
    x = maximum(x, -126.0)
    rounded = x + ROUND32
    r = x - (rounded - ROUND32)
    # Least relative error on [-1/2, 1/2], 7.5e-8.
    p = fused(r, 0.0013276472454890609, 0.009675541892647743)
    p = fused(p, r, 0.05550713092088699)
    p = fused(p, r, 0.24022120237350464)
    p = fused(p, r, 0.6931469440460205)
    p = fused(p, r, 1.0000001192092896)
    return times_power_of_two(p, rounded)


@inlined
def exp2_64(x):  # type: ignore[no-untyped-def]
    """2^x of a float64 vector within 1e-11, for x < 1000; anything below -1000 counts as -1000."""
    x = maximum(x, -1000.0)
    rounded = x + ROUND64
    r = (x - (rounded - ROUND64)) * 0.6931471805599453
    p = fused(r, 1 / 3628800, 1 / 362880)
    p = fused(p, r, 1 / 40320)
    p = fused(p, r, 1 / 5040)
    p = fused(p, r, 1 / 720)
    p = fused(p, r, 1 / 120)
    p = fused(p, r, 1 / 24)
    p = fused(p, r, 1 / 6)
    p = fused(p, r, 0.5)
    p = fused(p, r, 1.0)
    return times_power_of_two(fused(p, r, 1.0), rounded)


@inlined
def exp(x):  # type: ignore[no-untyped-def]
    """e^x of a float32 vector, for x < 88; the relative error grows as 1e-7 (1 + |x|)."""
    return exp2(x * LOG2_E)


@inlined
def sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-x) of a float32 vector."""
    return 1.0 / (exp(0.0 - maximum(x, -87.0)) + 1.0)
