"""Bi-WKV in O(T) with plain torch ops: two causal scans, one per direction, and their mirror image for the gradient.

The state of a scan is kept as (mean, log-mass): the weighted mean of the values seen so far and the logarithm of their
total weight. Adding a token moves the mean towards its value by a weight in [0, 1], so nothing overflows, whatever the
keys and decays, and a mean never leaves the range of the values.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RADIX = 16  # tokens that one level of the scan walks through one after another; a power of two
EXPORT_LEVELS = 4  # levels unrolled when the number of tokens is symbolic: up to RADIX ** EXPORT_LEVELS tokens
EXPORT_LAST_STEPS = RADIX + 2  # steps of the last level: what 16⁴ tokens leave, with the spare chunk of every level
LOG_ZERO = -1e30  # log-mass of nothing: finite, so that the difference of two of them is 0 and not NaN


class State(NamedTuple):
    """What a token sees in one direction: `mean` (S, B, T, C) for S sets of values, `log_mass` (B, T, C)."""

    mean: Tensor
    log_mass: Tensor


def exclusive_scan(key: Tensor, values: Tensor, decay: Tensor, levels: int | None = None) -> State:
    """Decayed mean of all strictly earlier tokens: weights e^{key_i - decay (t-1-i)} for i < t.

    Tokens are cut into chunks of RADIX; each chunk is summarised as one token, the summaries are scanned by the same
    function, and every chunk is then walked through from the state it inherits, all chunks at once.

    Args:
        key: (B, T, C) log-weights.
        values: (S, B, T, C).
        decay: (B or 1, 1, C) per step.
        levels: how deep to recurse; by default as deep as T asks for, which needs T to be a number and not a symbol.

    Returns:
        The state before each token; nothing (mean 0, log-mass LOG_ZERO) before the first.
    """
    num_tokens = key.shape[1]
    if levels is None and not isinstance(num_tokens, int):
        torch._check(num_tokens <= RADIX**EXPORT_LEVELS)
        levels = EXPORT_LEVELS
    single_chunk = levels == 1 if levels is not None else num_tokens <= RADIX
    if single_chunk:
        count, steps = 1, num_tokens if levels is None else EXPORT_LAST_STEPS
    else:
        count, steps = (num_tokens + RADIX - 1) // RADIX, RADIX
        if levels is not None:
            count += 1  # a spare chunk: a symbol that could be 1 would have to be told apart from those that broadcast
    padding = count * steps - num_tokens
    key = F.pad(key, (0, 0, 0, padding), value=LOG_ZERO).unflatten(1, (-1, steps))  # (B, chunks, steps, C)
    values = F.pad(values, (0, 0, 0, padding)).unflatten(2, (-1, steps))
    decay = decay[:, None]
    if single_chunk:
        inherited = State(torch.zeros_like(values[:, :, :, 0]), torch.full_like(key[:, :, 0], LOG_ZERO))
    else:
        summary = _summarise(key, values, decay)
        inherited = exclusive_scan(
            summary.log_mass, summary.mean, decay[:, 0] * steps, None if levels is None else levels - 1
        )
    states = _walk(key, values, decay[:, :, 0], inherited)
    return State(states.mean.flatten(2, 3)[:, :, :num_tokens], states.log_mass.flatten(1, 2)[:, :num_tokens])


def _merge(first: State, second: State) -> State:
    """Two sets of tokens as one. The mean of equal means is exactly that, and never lies outside the two of them."""
    mean = torch.lerp(first.mean, second.mean, torch.sigmoid(second.log_mass - first.log_mass)[None])
    return State(mean, torch.logaddexp(first.log_mass, second.log_mass))


def _summarise(key: Tensor, values: Tensor, decay: Tensor) -> State:
    """All tokens of each chunk as its last token sees them; merged by halves. key (B, chunks, RADIX, C)."""
    to_chunk_end = torch.arange(RADIX - 1, -1, -1, device=key.device, dtype=key.dtype)[:, None]
    state = State(values, key - decay * to_chunk_end)
    remaining = RADIX
    while remaining > 1:
        remaining //= 2
        state = _merge(
            State(state.mean[:, :, :, :remaining], state.log_mass[:, :, :remaining]),
            State(state.mean[:, :, :, remaining:], state.log_mass[:, :, remaining:]),
        )
    return State(state.mean[:, :, :, 0], state.log_mass[:, :, 0])


def _walk(key: Tensor, values: Tensor, decay: Tensor, state: State) -> State:
    """States before each token of every chunk, given the state before its first. key (B, chunks, steps, C)."""
    states = [state]
    for step in range(key.shape[2] - 1):
        aged = State(state.mean, state.log_mass - decay)
        state = _merge(aged, State(values[:, :, :, step], key[:, :, step]))
        states.append(state)
    means, log_masses = zip(*states, strict=True)
    return State(torch.stack(means, dim=3), torch.stack(log_masses, dim=2))


def scan_both_directions(key: Tensor, values: Tensor, decay: Tensor) -> tuple[State, State]:
    """What each token sees before it and after it; arguments as `exclusive_scan`. One scan over a doubled batch."""
    batch = key.shape[0]
    if decay.shape[0] != 1:
        decay = torch.cat([decay, decay])
    both = exclusive_scan(torch.cat([key, key.flip(1)]), torch.cat([values, values.flip(2)], dim=1), decay)
    past = State(both.mean[:, :batch], both.log_mass[:batch])
    future = State(both.mean[:, batch:].flip(2), both.log_mass[batch:].flip(1))
    return past, future


def relative_keys(k: Tensor) -> Tensor:
    """Keys (B, T, C) less the largest of their channel: the mean stays as it is, and log-masses keep more digits."""
    return k - k.amax(1, keepdim=True)


def bi_wkv_scan(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, State, State]:
    """Bi-WKV of whole sequences.

    Args:
        decay: (B or 1, 1, C) per step, that is the model's parameter divided by the number of tokens.
        bonus: (B or 1, 1, C), likewise.
        k: (B, T, C) keys, float32 or float64.
        v: (B, T, C) values, same dtype.

    Returns:
        y (B, T, C); the logarithm of its denominator (B, T, C), for keys as `relative_keys` gives them; the states
        before and after each token, likewise.
    """
    k = relative_keys(k)
    past, future = scan_both_directions(k, v[None], decay)
    mean, log_denominator = _merge(_merge(past, future), State(v[None], k + bonus))
    return mean[0], log_denominator, past, future


def bi_wkv_scan_backward(
    grad: Tensor, decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of `bi_wkv_scan`'s y, by the same scans applied to the gradient (see README.md for the derivation).

    Args:
        grad: (B, T, C) gradient of the loss in y.
        decay, bonus, k, v: as given to `bi_wkv_scan`.
        valid: (B, T, 1) bool, False at padding; there grad must be 0 and k LOG_ZERO.

    Returns:
        Gradients in decay (B, 1, C), bonus (B, 1, C), k (B, T, C), v (B, T, C); the first two summed over tokens only.
    """
    k = relative_keys(k)
    y, log_denominator, past, future = bi_wkv_scan(decay, bonus, k, v)
    if valid is not None:
        log_denominator = torch.where(valid, log_denominator, -LOG_ZERO)
    before, after = scan_both_directions(-log_denominator, torch.stack([grad, grad * y]), decay)

    own_weight = torch.exp(k + bonus - log_denominator)
    weight_before = torch.exp(k + before.log_mass)
    weight_after = torch.exp(k + after.log_mass)
    own = own_weight * grad * (v - y)
    grad_v = own_weight * grad + weight_before * before.mean[0] + weight_after * after.mean[0]
    grad_k = (
        own + weight_before * (before.mean[0] * v - before.mean[1]) + weight_after * (after.mean[0] * v - after.mean[1])
    )
    # Each decay step between a source and a target multiplies their weight by e^{-decay}; count it where it happens.
    crossing = torch.exp(past.log_mass + after.log_mass - decay) * (past.mean[0] * after.mean[0] - after.mean[1])
    crossing += torch.exp(future.log_mass + before.log_mass - decay) * (
        future.mean[0] * before.mean[0] - before.mean[1]
    )
    return -crossing.sum(1, keepdim=True), own.sum(1, keepdim=True), grad_k, grad_v
