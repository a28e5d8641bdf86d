"""Token shifts: what a token sees of its neighbours before it is mixed."""

from vrwkv.ops.token_shift.bi_shift import bi_shift
from vrwkv.ops.token_shift.q_shift import q_shift

__all__ = ["bi_shift", "q_shift"]
