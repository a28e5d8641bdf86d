"""Bi-WKV in O(T) with plain torch ops: two causal scans, one per direction, and their mirror image for the gradient.

The state of a scan is kept as (mean, log-mass): the weighted mean of the values seen so far and the logarithm of their
total weight. Adding a token moves the mean towards its value by a weight in [0, 1], so nothing overflows, whatever the
keys and decays, and a mean never leaves the range of the values.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RADIX = 16  # tokens that one level of the scan walks through one after another
EXPORT_LEVELS = 4  # levels unrolled when the number of tokens is symbolic: up to RADIX ** EXPORT_LEVELS tokens
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
    steps = num_tokens if single_chunk and levels is None else RADIX
    padding = steps - num_tokens if single_chunk else -num_tokens % RADIX
    key = F.pad(key, (0, 0, 0, padding), value=LOG_ZERO).unflatten(1, (-1, steps))  # (B, chunks, steps, C)
    values = F.pad(values, (0, 0, 0, padding)).unflatten(2, (-1, steps))
    decay = decay[:, None]
    if single_chunk:
        inherited = State(torch.zeros_like(values[:, :, :, 0]), torch.full_like(key[:, :, 0], LOG_ZERO))
    else:
        to_chunk_end = torch.arange(steps - 1, -1, -1, device=key.device, dtype=key.dtype)[:, None]
        aged_key = key - decay * to_chunk_end
        log_mass = torch.logsumexp(aged_key, dim=2)
        mean = (torch.exp(aged_key - log_mass[:, :, None]) * values).sum(dim=3)
        inherited = exclusive_scan(log_mass, mean, decay[:, 0] * steps, None if levels is None else levels - 1)
    states = _walk(key, values, decay[:, :, 0], inherited)
    return State(states.mean.flatten(2, 3)[:, :, :num_tokens], states.log_mass.flatten(1, 2)[:, :num_tokens])


def _walk(key: Tensor, values: Tensor, decay: Tensor, state: State) -> State:
    """States before each token of every chunk, given the state before its first. key (B, chunks, steps, C)."""
    mean, log_mass = state
    means, log_masses = [mean], [log_mass]
    for step in range(key.shape[2] - 1):
        new_log_mass = torch.logaddexp(log_mass - decay, key[:, :, step])
        mean = torch.lerp(mean, values[:, :, :, step], torch.exp(key[:, :, step] - new_log_mass)[None])
        log_mass = new_log_mass
        means.append(mean)
        log_masses.append(log_mass)
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


def bi_wkv_scan(decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, State, State]:
    """Bi-WKV of whole sequences.

    Args:
        decay: (B or 1, 1, C) per step, that is the model's parameter divided by the number of tokens.
        bonus: (B or 1, 1, C), likewise.
        k: (B, T, C) keys, float32 or float64.
        v: (B, T, C) values, same dtype.

    Returns:
        y (B, T, C); the logarithm of its denominator (B, T, C); the states before and after each token.
    """
    past, future = scan_both_directions(k, v[None], decay)
    log_weights = torch.stack([past.log_mass, k + bonus, future.log_mass])
    log_denominator = torch.logsumexp(log_weights, dim=0)
    weights = torch.exp(log_weights - log_denominator)
    y = weights[0] * past.mean[0] + weights[1] * v + weights[2] * future.mean[0]
    return y, log_denominator, past, future


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
