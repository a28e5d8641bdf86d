"""Triton kernel of shift-and-mix, backward: every gradient from one read of the mixtures' gradients."""

# mypy: ignore-errors
# Kernels are written in Triton's language, whose values have no Python types.

import triton
import triton.language as tl

from vrwkv.ops.shift_mix.triton_neighbours import difference_from_neighbour, load_standardised, look_around


@triton.jit
def through_norm(grad, standardised, scale, CHANNELS: tl.constexpr):
    """Gradient (t, c) in the norm's input, for the one in its standardised output (zero past CHANNELS)."""
    mean = tl.sum(grad, 1, keep_dims=True) / CHANNELS
    along = tl.sum(grad * standardised, 1, keep_dims=True) / CHANNELS
    return (grad - mean - standardised * along) * scale


@triton.jit
def gradients_kernel(
    grad,
    x,
    statistics,
    share,
    correction,
    norm_weight,
    norm_bias,
    grad_x,
    grad_correction,
    partial,
    total,
    tokens_per_program,
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
    """Gradients in x and correction, and the sums over a program's tokens that the parameters' gradients consist of.

    partial is (programs, MIXTURES, CHANNELS), or with a norm (programs, MIXTURES + 2, CHANNELS): share, norm_weight,
    norm_bias. The gradient in z is gathered from the neighbour that saw the element; nobody adds to what another
    program wrote. A program walks through tokens_per_program tokens, BLOCK_T at a time, with all their channels where
    there is a norm.

    Gradients in share are Σ_t g_t (z of the neighbour of t - z_t). Where the neighbour's z takes a norm to compute, the
    sum is taken over neighbours instead, with the gradients that grad_z gathers anyway: Σ_t z_t (g of the one that sees
    t - g_t). Without a norm z may be far from zero, and digits would be lost this way;
    with a correction the difference is needed for its gradient anyway.
    """
    GATHERED: tl.constexpr = NORMED and not CORRECTED
    program = tl.program_id(0)
    channel = (tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    here = channel < CHANNELS
    mixture_size = tl.cast(total, tl.int64) * CHANNELS
    weight, bias = 1.0, 0.0
    if NORMED:
        weight = tl.load(norm_weight + channel, here, other=0.0).to(tl.float32)
        bias = tl.load(norm_bias + channel, here, other=0.0).to(tl.float32)
    shares, share_sums = (), ()  # a tile per mixture; Triton's language has no (*tuple, element)
    for index in tl.static_range(MIXTURES):
        shares = shares + (tl.load(share + index * CHANNELS + channel, here, other=0.0).to(tl.float32),)  # noqa: RUF005
        share_sums = share_sums + (tl.zeros((BLOCK_T, BLOCK_C), tl.float32),)  # noqa: RUF005
    weight_sum = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    bias_sum = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    first = program * tokens_per_program
    last = tl.minimum(first + tokens_per_program, total)
    for start in range(first, last, BLOCK_T):
        token = start + tl.arange(0, BLOCK_T)
        valid = (token < last)[:, None] & here
        around = look_around(
            token, channel, total, image_tokens, height, width, shift, HEAD, END_1, END_2, END_3, END_4, ALIGN
        )
        _row, _column, _within, offset, moves, _sees, seen = around
        own, scale = load_standardised(x, statistics, token, channel, total, valid, CHANNELS, NORMED)
        z = own * weight + bias if NORMED else own
        if not GATHERED:
            difference = difference_from_neighbour(
                x, statistics, weight, bias, z, token, channel, total, height, width, shift, around, valid,
                CHANNELS, END_1, END_2, END_3, NORMED,
            )  # fmt: skip
        place = token.to(tl.int64)[:, None] * CHANNELS + channel
        back = (token.to(tl.int64)[:, None] - offset) * CHANNELS + channel
        seen = seen & valid
        grad_z = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        moved = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        new_sums = ()
        for index in tl.static_range(MIXTURES):
            given = tl.load(grad + index * mixture_size + place, valid, other=0.0).to(tl.float32)
            asked = tl.load(grad + index * mixture_size + back, seen, other=0.0).to(tl.float32)
            grad_z += given
            if GATHERED:
                passed_on = tl.where(moves, asked - given, 0.0)
                moved += passed_on * shares[index]
                new_sums = new_sums + (share_sums[index] + passed_on * z,)  # noqa: RUF005
            else:
                in_mix = given * difference
                new_sums = new_sums + (share_sums[index] + in_mix,)  # noqa: RUF005
                mix, mix_back = shares[index], shares[index]
                if CORRECTED:
                    tl.store(grad_correction + index * mixture_size + place, in_mix, valid)
                    mix += tl.load(correction + index * mixture_size + place, valid, other=0.0).to(tl.float32)
                    mix_back += tl.load(correction + index * mixture_size + back, seen, other=0.0).to(tl.float32)
                moved += tl.where(moves, asked * mix_back - given * mix, 0.0)
        share_sums = new_sums
        grad_z += moved
        if NORMED:
            weight_sum += grad_z * own
            bias_sum += grad_z
            # Chosen, though zero elsewhere: fused into the subtraction of the mean, the product would leave its
            # rounding in the gradient of a single channel, which is zero.
            grad_z = through_norm(tl.where(valid, grad_z * weight, 0.0), own, scale, CHANNELS)
        tl.store(grad_x + place, grad_z, valid)
    rows: tl.constexpr = MIXTURES + 2 if NORMED else MIXTURES
    row = partial + program.to(tl.int64) * rows * CHANNELS + channel
    for index in tl.static_range(MIXTURES):
        tl.store(row + index * CHANNELS, tl.sum(share_sums[index], 0, keep_dims=True), here)
    if NORMED:
        tl.store(row + MIXTURES * CHANNELS, tl.sum(weight_sum, 0, keep_dims=True), here)
        tl.store(row + (MIXTURES + 1) * CHANNELS, tl.sum(bias_sum, 0, keep_dims=True), here)
