# mypy: ignore-errors
"""Numbers of Bi-WKV's Triton kernels: a lane's channels in memory and in registers, and powers of two for empty sums.

A lane holds WIDTH neighbouring channels of one chunk of tokens. With a WIDTH of 2, half-precision pairs stay one 32-bit
register until they are used; with 1, any dtype and any number of channels will do. Values have the shape (chunks,
lanes, WIDTH), raw ones (chunks, lanes).
"""

import triton
import triton.language as tl

from vrwkv.ops import triton_runtime
from vrwkv.ops.triton_arithmetic import NATIVE, exp2, instruction

INTERPRETED = tl.constexpr(triton_runtime.INTERPRETED)
# Two of -inf in one int32.
BFLOAT16_NOTHING = tl.constexpr(0xFF80FF80 - 2**32)
FLOAT16_NOTHING = tl.constexpr(0xFC00FC00 - 2**32)


@triton.jit
def bounded_exp2(x):
    """2^x, but at most 2^126: times the empty sums for which such powers would be taken, it is 0 and not NaN."""
    return exp2(tl.minimum(x, 126.0))


@triton.jit
def load_raw(pointer, offset, valid, KEYS: tl.constexpr, WIDTH: tl.constexpr):
    """A lane's channels of one token as they stand in memory; where it does not exist, keys of -inf, else 0.

    `offset` counts lanes' channels together: words of 32 bits with a WIDTH of 2.
    """
    if WIDTH == 2:
        words = pointer.to(tl.pointer_type(tl.int32), bitcast=True)
        nothing = 0
        if KEYS:
            nothing = BFLOAT16_NOTHING if pointer.dtype.element_ty == tl.bfloat16 else FLOAT16_NOTHING
        return tl.load(words + offset, mask=valid, other=nothing)
    else:
        return tl.load(pointer + offset, mask=valid, other=float("-inf") if KEYS else 0.0)


@triton.jit
def unpack(raw, pointer, AGAIN: tl.constexpr, WIDTH: tl.constexpr):
    """Raw channels as float32.

    AGAIN: by other instructions, so that the compiler does not keep the first result in registers until then.
    """
    if WIDTH == 1:
        return tl.expand_dims(raw.to(tl.float32), 2)
    elif pointer.dtype.element_ty == tl.bfloat16:
        if AGAIN and NATIVE:
            low = instruction(raw, "prmt.b32 $0, $1, 0, 0x1044;")
            high = instruction(raw, "prmt.b32 $0, $1, 0, 0x3244;")
            return tl.join(low, high)
        else:
            return tl.join((raw << 16).to(tl.float32, bitcast=True), (raw & -65536).to(tl.float32, bitcast=True))
    else:
        low = (raw & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
        high = ((raw >> 16) & 0xFFFF).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)
        return tl.join(low, high)


@triton.jit
def store_raw(pointer, offset, chosen, value, WIDTH: tl.constexpr):
    """Write lanes' channels (chunks, lanes, WIDTH) of one token; `offset` as in `load_raw`.

    Pairs as words: half-words would go through shared memory first, to be written in longer pieces.
    """
    if WIDTH == 2 and not INTERPRETED:  # whose outputs are float32
        TYPE: tl.constexpr = pointer.dtype.element_ty
        low, high = tl.split(value)
        low = low.to(TYPE).to(tl.uint16, bitcast=True).to(tl.uint32)
        high = high.to(TYPE).to(tl.uint16, bitcast=True).to(tl.uint32)
        words = pointer.to(tl.pointer_type(tl.uint32), bitcast=True)
        tl.store(words + offset, (high << 16) | low, mask=chosen)
    else:
        channel = WIDTH * tl.expand_dims(offset, 2) + tl.arange(0, WIDTH)[None, None, :]
        tl.store(pointer + channel, value, mask=tl.expand_dims(chosen, 2))


@triton.jit
def load_channels(pointer, lane, exists, WIDTH: tl.constexpr):
    """(1, lanes, WIDTH) float32 of a tensor (C,)."""
    if WIDTH == 2:
        low = tl.load(pointer + 2 * lane, mask=exists, other=0.0)
        return tl.join(low, tl.load(pointer + 2 * lane + 1, mask=exists, other=0.0)).to(tl.float32)
    else:
        return tl.expand_dims(tl.load(pointer + lane, mask=exists, other=0.0).to(tl.float32), 2)


@triton.jit
def store_channels(pointer, lane, chosen, value, WIDTH: tl.constexpr):
    """Write the rows `chosen` of a value (chunks, lanes, WIDTH), one for each lane, to a tensor (C,)."""
    place = pointer + WIDTH * lane + tl.where(chosen, 0, 0)
    if WIDTH == 2:
        low, high = tl.split(value)
        tl.store(place, low, mask=chosen)
        tl.store(place + 1, high, mask=chosen)
    else:
        tl.store(place, tl.reshape(value, place.shape), mask=chosen)
