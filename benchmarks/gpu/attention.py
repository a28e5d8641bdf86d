"""The ViT's attention: the fastest kernel that this machine has for it, by name."""

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.timing import measure

FLASH_ATTENTION_3 = "FA3"
SDPA_BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")
LARGEST_DIFFERENCE = 0.02  # of FA3 from torch's attention, relative to the largest value


def attention_context(name: str) -> AbstractContextManager[object]:
    """Lets torch's attention use nothing but the kernel `name`."""
    return nullcontext() if name == FLASH_ATTENTION_3 else sdpa_kernel([getattr(SDPBackend, name)])


def fastest_attention(
    batch: int, tokens: int, heads: int, head_size: int, *, backward: bool, device: str
) -> tuple[str, dict[str, float | str]]:
    """Name of the fastest kernel, and of each one its seconds or why it did not run.

    Raises:
        RuntimeError: none ran.
    """
    shape = (batch, heads, tokens, head_size)
    q, k, v = (torch.randn(shape, device=device).bfloat16().requires_grad_(backward) for _ in range(3))
    found: dict[str, float | str] = {}
    for name in (*SDPA_BACKENDS, FLASH_ATTENTION_3):
        try:
            function = flash_attention_3() if name == FLASH_ATTENTION_3 else F.scaled_dot_product_attention

            def task(function: Callable[..., Tensor] = function) -> object:
                y = function(q, k, v)
                return torch.autograd.grad(y, (q, k, v), y) if backward else y

            with attention_context(name):
                if name == FLASH_ATTENTION_3:
                    _check(function(q, k, v), F.scaled_dot_product_attention(q, k, v))
                found[name] = measure(task, device, flush=False, seconds=0.1).median
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    times = {name: seconds for name, seconds in found.items() if isinstance(seconds, float)}
    if not times:
        raise RuntimeError(f"no attention kernel ran: {found}")
    return min(times, key=lambda name: times[name]), found


def flash_attention_3() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlashAttention-3 for (B, H, T, N) tensors.

    Raises:
        ModuleNotFoundError: there is no package flash_attn_interface.
    """
    if importlib.util.find_spec("flash_attn_interface") is None:
        raise ModuleNotFoundError("flash_attn_interface is not installed")
    from flash_attn_interface import flash_attn_func

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found = flash_attn_func(*(tensor.transpose(1, 2) for tensor in (q, k, v)))
        return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)  # earlier ones add the log-sum

    return attend


class Attention(nn.Module):
    """A timm Attention with another kernel.

    Args:
        original: timm's module, whose layers are used.
        kernel: (q, k, v), each (B, H, T, N), -> (B, H, T, N).
    """

    def __init__(self, original: Any, kernel: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.qkv: nn.Module = original.qkv
        self.proj: nn.Module = original.proj
        self.num_heads, self.kernel = original.num_heads, kernel

    def forward(self, x: Tensor, **unused: object) -> Tensor:
        """(B, T, C) -> (B, T, C); timm's masks and flags are all None or off here."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(self.kernel(q, k, v).transpose(1, 2).flatten(2))


def use_attention(model: Any, name: str) -> None:
    """Route timm's attention through FA3 where that was the fastest; torch's kernels need `attention_context`."""
    if name == FLASH_ATTENTION_3:
        for block in model.blocks:
            block.attn = Attention(block.attn, flash_attention_3())


def _check(actual: Tensor, expected: Tensor) -> None:
    difference = ((actual - expected).abs().max() / expected.abs().max()).item()
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"differs from torch's by {difference:.1e}")
