"""One call of an op: its sizes, its inputs, the call itself, and the bytes that it must move."""

from dataclasses import dataclass
from math import isqrt, prod

import torch
from torch import Tensor

from vrwkv.ops import bi_wkv, bi_wkv6, shift_mix

OPS = ("bi_wkv", "bi_wkv6", "shift_mix")
MIXTURES = 3
PER_TOKEN = ("r", "k", "v", "w", "gate", "x")  # arguments whose first axis counts images


@dataclass(frozen=True)
class Case:
    """An op and the sizes of its inputs.

    Attributes:
        op: "bi_wkv", "bi_wkv6" or "shift_mix" (after a layer norm, MIXTURES mixtures).
        batch, tokens: B, T; with `lengths`, 1 and their sum.
        heads, head_size: channels = heads · head_size; only bi_wkv6 tells them apart.
        dtype: of the tensors per token; parameters are float32.
        gate: with the gate of bi_wkv.
        steep: bi_wkv with decays beyond those at which its kernels change their arithmetic.
        lengths: tokens of images packed end to end.
    """

    op: str
    batch: int
    tokens: int
    heads: int
    head_size: int
    dtype: str = "bfloat16"
    gate: bool = False
    steep: bool = False
    lengths: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        """C."""
        return self.heads * self.head_size

    @property
    def name(self) -> str:
        """Op and variant."""
        variants = {"gate": self.gate, "packed": bool(self.lengths), "steep": self.steep}
        return ", ".join([self.op, *(name for name, given in variants.items() if given)])

    @property
    def shape(self) -> str:
        """Sizes as text, B×T×C or B×T×H×N, and the dtype."""
        sizes = (self.heads, self.head_size) if self.op == "bi_wkv6" else (self.channels,)
        return f"{'×'.join(map(str, (self.batch, self.tokens, *sizes)))} {self.dtype}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return {
            "bi_wkv": ("decay", "bonus", "k", "v", *(["gate"] if self.gate else [])),
            "bi_wkv6": ("r", "k", "v", "w", "u"),
            "shift_mix": ("x", "share", "norm_weight", "norm_bias"),
        }[self.op]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of each result."""
        sizes = (self.heads, self.head_size) if self.op == "bi_wkv6" else (self.channels,)
        return (self.batch, self.tokens, *sizes)

    @property
    def outputs(self) -> int:
        """Number of results."""
        return MIXTURES if self.op == "shift_mix" else 1

    def draw(self, device: str, seed: int = 0) -> list[Tensor]:
        """Inputs with decays such as training reaches."""
        generator = torch.Generator(device).manual_seed(seed)
        dtype = getattr(torch, self.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator, device=device)

        images = (self.batch, self.tokens)
        if self.op == "bi_wkv":
            per_token = [normal(*images, self.channels).to(dtype) for _ in range(3 if self.gate else 2)]
            # Plain sums over a span bear 32 over an image of a single span; with few tokens some channels stay flat.
            fall = (0.3 * self.tokens, 15.0 * self.tokens) if self.steep else (-5.0, 20.0)
            return [uniform(*fall, self.channels), 5 * normal(self.channels), *per_token]
        if self.op == "bi_wkv6":
            heads = (self.heads, self.head_size)
            r, k, v = (normal(*images, *heads).to(dtype) for _ in range(3))
            return [r, k, v, uniform(-6, 2, *images, *heads).to(dtype), normal(*heads)]
        parameters = [normal(MIXTURES, self.channels), 1 + normal(self.channels) / 2, normal(self.channels)]
        return [normal(*images, self.channels).to(dtype), *parameters]

    def draw_gradients(self, device: str, seed: int = 1) -> list[Tensor]:
        """A gradient of each result."""
        generator = torch.Generator(device).manual_seed(seed)
        drawn = (torch.randn(self.output_shape, generator=generator, device=device) for _ in range(self.outputs))
        return [grad.to(getattr(torch, self.dtype)) for grad in drawn]

    def run(self, backend: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        """The op on all or some of the images of `inputs`."""
        boundaries = None
        if self.lengths:
            boundaries = torch.tensor([0, *self.lengths], device=inputs[2].device).cumsum(0).int()
        if self.op == "bi_wkv":
            gate = inputs[4] if self.gate else None
            return (bi_wkv(*inputs[:4], gate=gate, cu_seqlens=boundaries, backend=backend),)
        if self.op == "bi_wkv6":
            return (bi_wkv6(*inputs, cu_seqlens=boundaries, backend=backend),)
        height = next(side for side in range(isqrt(self.tokens), 0, -1) if self.tokens % side == 0)
        x, share, weight, bias = inputs
        grid = (height, self.tokens // height)
        return shift_mix(x, share, grid, norm_weight=weight, norm_bias=bias, backend=backend)


def useful_bytes(case: Case, *, backward: bool) -> int:
    """The least that must move: each input and each result per token once, whatever a kernel moves.

    Forward: the inputs and the output. Backward, on top: the inputs and the output's gradient, and a gradient of each
    input. Parameters are too small to count.
    """
    inputs = sum(name in PER_TOKEN for name in case.arguments)
    tensors = inputs + case.outputs + (2 * inputs + case.outputs if backward else 0)
    elements = prod((case.batch, case.tokens, case.channels))
    return tensors * elements * getattr(torch, case.dtype).itemsize


def timed_cases(op: str, *, quick: bool) -> list[Case]:
    """The shapes that are timed: about 2^27 elements at each number of tokens, and one image of 2048×2048 pixels."""
    heads, head_size = (8, 64) if op == "bi_wkv6" else (1, 768)
    cases = []
    for tokens in (4096,) if quick else (196, 1024, 4096, 16384):
        channels = heads * head_size
        batch = max(2**27 // (tokens * channels), -(-8192 // channels))
        cases.append(Case(op, batch, tokens, heads, head_size))
        if op == "bi_wkv":
            cases.append(Case(op, batch, tokens, heads, head_size, gate=True))
    single = (3, 64) if op == "bi_wkv6" else (1, 192)
    return [*cases, Case(op, 1, 16384, *single)]


def other_cases(op: str) -> list[Case]:
    """What is checked but not timed: packed images, odd sizes, other dtypes, other code paths."""
    lengths = (1, 64, 65, 1000, 2303)
    packed = sum(lengths)
    return {
        "bi_wkv": [
            Case(op, 1, packed, 1, 200, lengths=lengths),
            Case(op, 1, packed, 1, 200, lengths=lengths, gate=True),
            Case(op, 3, 333, 1, 200, steep=True),
            Case(op, 3, 333, 1, 200, "float32", gate=True),
            Case(op, 2, 1, 1, 192, "float16", gate=True),
        ],
        "bi_wkv6": [
            Case(op, 3, 333, 8, 80),
            Case(op, 1, packed, 2, 64, lengths=lengths),
            Case(op, 1, packed, 2, 80, lengths=lengths),
            Case(op, 3, 333, 3, 64, "float32"),
            Case(op, 2, 1, 3, 64, "float16"),
        ],
        "shift_mix": [Case(op, 3, 35 * 37, 1, 200), Case(op, 3, 30, 1, 192, "float32"), Case(op, 2, 1, 1, 64)],
    }[op]


def tiny_cases(op: str) -> list[Case]:
    """The same variants, small enough for Triton's interpreter."""
    return {
        "bi_wkv": [
            Case(op, 3, 9, 1, 5),
            Case(op, 2, 10, 1, 5, gate=True),
            Case(op, 1, 11, 1, 5, gate=True, lengths=(1, 4, 6)),
            Case(op, 2, 13, 1, 5, "float32", steep=True),
            Case(op, 2, 1, 1, 5, "float16", gate=True),
        ],
        "bi_wkv6": [Case(op, 1, 66, 1, 64), Case(op, 1, 21, 1, 80, lengths=(1, 20)), Case(op, 1, 1, 1, 64, "float16")],
        "shift_mix": [Case(op, 3, 12, 1, 24), Case(op, 2, 7, 1, 20, "float32")],
    }[op]
