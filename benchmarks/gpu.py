"""How fast are the Triton kernels and the models on this GPU, next to a copy of memory, to rivals and to timm's ViT?

Run it with `python benchmarks/gpu.py` (under 10 minutes; `--quick` under 2). Each kernel is first compared with
float64, forward and backward, in memory full of NaN, at the shapes that are timed; what disagrees is not timed and
makes the exit status 1. Without a GPU the exit status is 2; there, `TRITON_INTERPRET=1 python benchmarks/gpu.py
--verify-only` checks the same kernels on tiny shapes. Writes docs/benchmarks/gpu.md and gpu.json.
"""

from gpu.command import main

if __name__ == "__main__":
    raise SystemExit(main(description=__doc__))
