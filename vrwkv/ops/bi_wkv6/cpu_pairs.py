"""Compiled loops of Bi-WKV6's backward pass: pairs of tokens inside a chunk, 16 channels of the head at a time.

Letters in this file: c tokens of a chunk, N head size. Matrices (c, c) hold targets along the first axis.
"""

from numba import float32

from vrwkv.ops.bi_wkv6.cpu_chunks import ROW
from vrwkv.ops.bi_wkv6.cpu_plan import CHUNK
from vrwkv.ops.cpu_runtime.functions import inlined
from vrwkv.ops.cpu_runtime.vectors import (
    float_at,
    fused,
    load32,
    spread,
    stack_memory,
    store32,
    store_float,
    sum_of_lanes,
    zeros32,
)


@inlined
def add_to(address, vector):  # type: ignore[no-untyped-def]
    """Add a vector to what stands in memory."""
    store32(address, load32(address) + vector)


@inlined
def write_matches(gradients, values, tokens, matches, size):  # type: ignore[no-untyped-def]
    """B_ts = g_t · v_s for all pairs of a chunk, (c, c); gradients and values are (c, N)."""
    width = size * 4
    for target in range(tokens):
        for source in range(tokens):
            total = zeros32()
            for lanes in range(0, width, ROW):
                total = fused(
                    load32(gradients + target * width + lanes), load32(values + source * width + lanes), total
                )
            store_float(matches + (target * CHUNK + source) * 4, sum_of_lanes(total))


@inlined
def _add_to_score(scores, target, source, terms):  # type: ignore[no-untyped-def]
    place = scores + (target * CHUNK + source) * 4
    store_float(place, float_at(place) + sum_of_lanes(terms))


@inlined
def add_pairs(r, k, decays, bonus, tokens, matches, scores, grad_r, grad_k, crossing):  # type: ignore[no-untyped-def]
    """What the pairs inside a chunk add to gradients and scores.

    Args:
        r, k, decays: (c, 16).
        bonus: vector.
        matches: (c, c) B_ts.
        scores: (c, c) A_ts, added to.
        grad_r, grad_k: (c, 16), added to.
        crossing: (c, 16), added to: the sum over the pairs that each token lies between.

    Returns:
        What they add to the gradient of the bonus.
    """
    passing, grad_bonus = stack_memory(512), zeros32()
    for source in range(tokens):
        line = source * ROW
        own_r, own_k = load32(r + line), load32(k + line)
        own_match = float_at(matches + source * (CHUNK + 1) * 4)
        product = own_r * own_k
        grad_bonus = fused(product, own_match, grad_bonus)
        _add_to_score(scores, source, source, product * bonus)
        weighed = bonus * own_match
        own_grad_r, own_grad_k = own_k * weighed, own_r * weighed
        weight, faded_r, faded_k = spread(float32(1.0)), own_r, own_k
        for target in range(source + 1, tokens):
            place = target * ROW
            other_r, other_k, keep = load32(r + place), load32(k + place), load32(decays + place)
            match = float_at(matches + (target * CHUNK + source) * 4)
            match_back = float_at(matches + (source * CHUNK + target) * 4)
            _add_to_score(scores, target, source, other_r * faded_k)
            _add_to_score(scores, source, target, other_k * faded_r)
            matched_r, matched_k = other_r * match, other_k * match_back
            own_grad_r = fused(weight, matched_k, own_grad_r)
            own_grad_k = fused(weight, matched_r, own_grad_k)
            store32(grad_r + place, fused(faded_k, match, load32(grad_r + place)))
            store32(grad_k + place, fused(faded_r, match_back, load32(grad_k + place)))
            store32(passing + place, matched_r * faded_k + matched_k * faded_r)
            weight, faded_r, faded_k = weight * keep, faded_r * keep, faded_k * keep
        add_to(grad_r + line, own_grad_r)
        add_to(grad_k + line, own_grad_k)
        over = zeros32()
        for back in range(tokens - source - 2):
            between = tokens - 2 - back
            over = over + load32(passing + (between + 1) * ROW)
            add_to(crossing + between * ROW, over)
    return grad_bonus
