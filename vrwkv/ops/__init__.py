"""Differentiable token mixers. One folder each; `naive.py` is the definition, the other files compute it faster."""

from vrwkv.ops.bi_wkv import bi_wkv, bi_wkv_published
from vrwkv.ops.bi_wkv6 import bi_wkv6
from vrwkv.ops.deform_attn import deform_attn
from vrwkv.ops.dispatch import available_backends, explain_backends
from vrwkv.ops.elementwise import sigmoid_gate, squared_relu, tanh
from vrwkv.ops.head_norm_gate import head_norm_gate
from vrwkv.ops.patches import extract_patches
from vrwkv.ops.shift_mix import bi_shift_mix, shift_mix
from vrwkv.ops.token_shift import bi_shift, q_shift

__all__ = [
    "available_backends",
    "bi_shift",
    "bi_shift_mix",
    "bi_wkv",
    "bi_wkv6",
    "bi_wkv_published",
    "deform_attn",
    "explain_backends",
    "extract_patches",
    "head_norm_gate",
    "q_shift",
    "shift_mix",
    "sigmoid_gate",
    "squared_relu",
    "tanh",
]
