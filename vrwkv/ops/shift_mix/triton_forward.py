"""Triton kernels of shift-and-mix, forward: the norm's statistics, then all mixtures from one read."""

# mypy: ignore-errors
# Kernels are written in Triton's language, whose values have no Python types.

import triton
import triton.language as tl

from vrwkv.ops.shift_mix.triton_neighbours import difference_from_neighbour, load_standardised, look_around


@triton.jit
def statistics_kernel(x, statistics, eps, total, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """statistics (3, total): mean of each token's channels, what rounding left of it, 1 / standard deviation.

    Deviations are taken before they are squared: x = 1e3 + noise keeps its digits. BLOCK_C covers all channels.
    """
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = tl.arange(0, BLOCK_C)[None, :]
    valid = (token < total)[:, None] & (channel < CHANNELS)
    values = tl.load(x + token.to(tl.int64)[:, None] * CHANNELS + channel, valid, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / CHANNELS
    deviation = tl.where(valid, values - mean[:, None], 0.0)
    rest = tl.sum(deviation, 1) / CHANNELS
    deviation = tl.where(valid, deviation - rest[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(deviation * deviation, 1) / CHANNELS + eps)
    place = statistics + token
    rows = tl.cast(total, tl.int64)
    tl.store(place, mean, token < total)
    tl.store(place + rows, rest, token < total)
    tl.store(place + 2 * rows, scale, token < total)


@triton.jit
def mixtures_kernel(
    x,
    share,
    correction,
    norm_weight,
    norm_bias,
    statistics,
    mixtures,
    total,
    image_tokens,
    height,
    width,
    shift,
    CHANNELS: tl.constexpr,
    HEAD: tl.constexpr,
    END_1: tl.constexpr,
    END_2: tl.constexpr,
    END_3: tl.constexpr,
    END_4: tl.constexpr,
    ALIGN: tl.constexpr,
    MIXTURES: tl.constexpr,
    CORRECTED: tl.constexpr,
    NORMED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """mixtures (MIXTURES, total, CHANNELS), one program per tile of BLOCK_T tokens and BLOCK_C channels.

    The channel blocks of a token are neighbouring programs, so that whole rows of memory are in flight together.
    """
    blocks: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    program = tl.program_id(0)
    token = (program // blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    channel = ((program % blocks) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    valid = (token < total)[:, None] & (channel < CHANNELS)
    weight, bias = 1.0, 0.0
    if NORMED:
        weight = tl.load(norm_weight + channel, channel < CHANNELS, other=0.0).to(tl.float32)
        bias = tl.load(norm_bias + channel, channel < CHANNELS, other=0.0).to(tl.float32)
    around = look_around(
        token, channel, total, image_tokens, height, width, shift, HEAD, END_1, END_2, END_3, END_4, ALIGN
    )
    z, _ = load_standardised(x, statistics, token, channel, total, valid, CHANNELS, NORMED)
    if NORMED:
        z = z * weight + bias
    difference = difference_from_neighbour(
        x, statistics, weight, bias, z, token, channel, total, height, width, shift, around, valid,
        CHANNELS, END_1, END_2, END_3, NORMED,
    )  # fmt: skip
    place = token.to(tl.int64)[:, None] * CHANNELS + channel
    for index in tl.static_range(MIXTURES):
        mix = tl.load(share + index * CHANNELS + channel, channel < CHANNELS, other=0.0).to(tl.float32)
        if CORRECTED:
            mix = mix + tl.load(correction + place, valid, other=0.0).to(tl.float32)
        tl.store(mixtures + place, z + difference * mix, valid)
        place += tl.cast(total, tl.int64) * CHANNELS
