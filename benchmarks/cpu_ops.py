"""The ops with inputs as a model gives them, and how long they take next to one Linear layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cpu_timing import Times, interleaved
from torch import Tensor

from vrwkv.ops import bi_wkv, bi_wkv6, head_norm_gate, shift_mix, sigmoid_gate, squared_relu, tanh

HEAD_SIZE = 64
HIDDEN_RATIO = 4  # width of the channel mix over the channels of a token
USUAL_DECAY = 5.0  # the largest in a freshly initialised model
LONGEST_ATTENTION = 4096  # tokens; at 16384 one call takes seconds


@dataclass(frozen=True)
class Op:
    """An op as it is called inside a model.

    Attributes:
        run: (inputs, backend) -> outputs.
        inputs: (batch, tokens, channels, largest decay) -> float32 inputs that want gradients.
    """

    run: Callable[[list[Tensor], str | None], tuple[Tensor, ...]]
    inputs: Callable[[int, int, int, float], list[Tensor]]


def grid_of(tokens: int) -> tuple[int, int]:
    """(height, width) of nearly square images; the tokens left over are class tokens."""
    height = math.isqrt(tokens)
    return height, tokens // height


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _bi_wkv_inputs(batch: int, tokens: int, channels: int, decay: float) -> list[Tensor]:
    # Shuffled, so that neighbouring channels, which share a vector, differ.
    decays = torch.linspace(-decay, decay, channels)[torch.randperm(channels)]
    return [decays, _normal(channels), _normal(batch, tokens, channels), _normal(batch, tokens, channels)]


def _gated_inputs(batch: int, tokens: int, channels: int, decay: float) -> list[Tensor]:
    return [*_bi_wkv_inputs(batch, tokens, channels, decay), _normal(batch, tokens, channels)]


def _bi_wkv6_inputs(batch: int, tokens: int, channels: int, decay: float) -> list[Tensor]:
    heads = channels // HEAD_SIZE
    r, k, v, w = (_normal(batch, tokens, heads, HEAD_SIZE) for _ in range(4))
    return [r, k, v, w - 3, _normal(heads, HEAD_SIZE)]


def _shift_mix_inputs(batch: int, tokens: int, channels: int, decay: float) -> list[Tensor]:
    return [_normal(batch, tokens, channels), torch.rand(3, channels), 1 + 0.1 * _normal(channels), _normal(channels)]


def _run_shift_mix(inputs: list[Tensor], backend: str | None) -> tuple[Tensor, ...]:
    x, share, norm_weight, norm_bias = inputs
    return shift_mix(
        x, share, grid_of(x.shape[1]), norm_weight=norm_weight, norm_bias=norm_bias, norm_eps=1e-6, backend=backend
    )


def _head_norm_gate_inputs(batch: int, tokens: int, channels: int, decay: float) -> list[Tensor]:
    y, gate = (_normal(batch, tokens, channels) for _ in range(2))
    return [y, gate, 1 + 0.1 * _normal(channels), _normal(channels)]


def _run_head_norm_gate(inputs: list[Tensor], backend: str | None) -> tuple[Tensor, ...]:
    heads = inputs[0].shape[-1] // HEAD_SIZE
    return (head_norm_gate(*inputs, num_heads=heads, eps=1e-5, backend=backend),)


OPS = {
    "bi_wkv": Op(lambda inputs, backend: (bi_wkv(*inputs, backend=backend),), _bi_wkv_inputs),
    "bi_wkv with gate": Op(
        lambda inputs, backend: (bi_wkv(*inputs[:4], gate=inputs[4], backend=backend),), _gated_inputs
    ),
    "bi_wkv6": Op(lambda inputs, backend: (bi_wkv6(*inputs, backend=backend),), _bi_wkv6_inputs),
    "shift_mix": Op(_run_shift_mix, _shift_mix_inputs),
    "sigmoid_gate": Op(
        lambda inputs, backend: (sigmoid_gate(*inputs, backend=backend),),
        lambda batch, tokens, channels, decay: [_normal(batch, tokens, channels) for _ in range(2)],
    ),
    "squared_relu": Op(
        lambda inputs, backend: (squared_relu(*inputs, backend=backend),),
        lambda batch, tokens, channels, decay: [_normal(batch, tokens, HIDDEN_RATIO * channels)],
    ),
    "tanh": Op(
        lambda inputs, backend: (tanh(*inputs, backend=backend),),
        lambda batch, tokens, channels, decay: [_normal(batch, tokens, channels)],
    ),
    "head_norm_gate": Op(_run_head_norm_gate, _head_norm_gate_inputs),
}


def inputs_of(op: str, batch: int, tokens: int, channels: int, decay: float = USUAL_DECAY) -> list[Tensor]:
    """Random float32 inputs of an op, the same at every call, each recording gradients."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [tensor.requires_grad_() for tensor in OPS[op].inputs(batch, tokens, channels, decay)]


def time_ops(batch: int, tokens: int, channels: int, repetitions: int) -> dict[str, Times]:
    """Seconds of each op, forward ("bi_wkv") and forward + backward ("bi_wkv + backward"), and of the yardsticks.

    The yardsticks are one Linear(C, C) on the same tensor, forward ("linear") and with its backward, and torch's
    attention with heads of 64 channels, forward.
    """
    linear = torch.nn.Linear(channels, channels)
    x = torch.randn(batch, tokens, channels)
    leaf = x.clone().requires_grad_()
    tasks: dict[str, Callable[[], object]] = {
        "linear": torch.inference_mode()(lambda: linear(x)),
        "linear + backward": with_backward(lambda: (linear(leaf),), [leaf, linear.weight, linear.bias]),
    }
    if tokens <= LONGEST_ATTENTION:
        q, k, v = (torch.randn(batch, channels // HEAD_SIZE, tokens, HEAD_SIZE) for _ in range(3))
        tasks["attention"] = torch.inference_mode()(lambda: F.scaled_dot_product_attention(q, k, v))
    for name, op in OPS.items():
        inputs = inputs_of(name, batch, tokens, channels)
        fixed = [tensor.detach() for tensor in inputs]
        tasks[name] = torch.inference_mode()(lambda op=op, fixed=fixed: op.run(fixed, None))
        tasks[f"{name} + backward"] = with_backward(lambda op=op, inputs=inputs: op.run(inputs, None), inputs)
    return interleaved(tasks, repetitions)


def with_backward(forward: Callable[[], tuple[Tensor, ...]], inputs: list[Tensor]) -> Callable[[], object]:
    """The task of computing outputs and, from the gradients of a loss in them, the gradients of all inputs."""
    grads = [torch.randn_like(output) for output in forward()]
    return lambda: torch.autograd.grad(forward(), inputs, grads)
