"""What do the Triton kernels cost, counted in the code that Triton compiles for an H100? No GPU is needed.

`python benchmarks/gpu_instructions.py` prints, for heads of 64 in bfloat16 (bi_wkv6) and 768 channels (shift_mix), each
kernel's registers, bytes of spills, barriers, and instructions in all and in each loop. They depend on the versions of
Triton and of its assembler, which it prints, too. Counts are no times: they say what a change adds or takes away.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vrwkv.ops.bi_wkv6.triton import WALK_REGISTERS
from vrwkv.ops.bi_wkv6.triton_gradients import span_gradients_kernel
from vrwkv.ops.bi_wkv6.triton_outputs import span_outputs_kernel
from vrwkv.ops.bi_wkv6.triton_spans import BLOCK, TILE, Sizes
from vrwkv.ops.bi_wkv6.triton_states import span_updates_kernel
from vrwkv.ops.shift_mix.triton_backward import gradients_kernel
from vrwkv.ops.shift_mix.triton_forward import mixtures_kernel

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
INTEGERS = ("tokens", "heads", "spans", "length", "spans_per_image")
INTEGERS += ("total", "image_tokens", "height", "width", "tokens_per_program", "shift")
FLOATS = ("w", "u", "states", "asked", "whole", "from_future", "grad_w", "partial_u")
FLOATS += ("statistics", "partial", "share", "norm_weight", "norm_bias")


def compile_kernel(kernel: Any, constants: Mapping[str, Any], options: Mapping[str, Any]) -> bytes:
    """The code for an H100 of a kernel whose other arguments are bfloat16 tensors, in memory that PyTorch allocated."""
    types = dict.fromkeys(INTEGERS, "i32") | dict.fromkeys(FLOATS, "*fp32")
    signature = {n: "constexpr" if n in constants else types.get(n, "*bf16") for n in kernel.arg_names}
    used = {name: value for name, value in constants.items() if name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if signature[n].startswith("*")}
    compiled = triton.compile(ASTSource(kernel, signature, used, aligned), GPUTarget("cuda", 90, 32), dict(options))
    return compiled.asm["cubin"]


def disassembled(code: bytes) -> tuple[list[tuple[int, str]], dict[str, int], str]:
    """Addresses and texts of the instructions, addresses of labels, and what the assembler says of resources."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        run = {"capture_output": True, "text": True, "check": True}
        text = subprocess.run([TOOLS / "nvdisasm", file.name], **run).stdout
        resources = subprocess.run([TOOLS / "cuobjdump", "-res-usage", file.name], **run)
    instructions, labels, waiting = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            waiting.append(label[1])
        elif found := re.match(r"\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", line):
            instructions.append((int(found[1], 16), found[2]))
            labels |= dict.fromkeys(waiting, instructions[-1][0])
            waiting = []
    return instructions, labels, resources.stdout + resources.stderr


def describe(code: bytes) -> str:
    """Registers, spills, barriers, instructions in all and in each loop: one line."""
    instructions, labels, resources = disassembled(code)
    used = re.search(r"REG:(\d+) STACK:(\d+)", resources)
    assert used is not None
    loops = []
    for address, text in instructions:
        branch = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", text)
        if branch and labels.get(branch[1], address) < address:
            loops.append(sum(labels[branch[1]] <= other <= address for other, _ in instructions))
    barriers = sum("BAR.SYNC" in text for _, text in instructions)
    inside = f", {' and '.join(map(str, loops))} of them in loops" if loops else ""
    return f"{used[1]} registers, {used[2]} B of spills, {barriers} barriers, {len(instructions)} instructions{inside}"


def main() -> None:
    """Print a line for each kernel."""
    assembler = subprocess.run([TOOLS / "ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V([0-9.]+)", assembler)
    print(f"triton {triton.__version__}, ptxas {version[1] if version else '?'}, for compute capability 9.0")
    sizes = Sizes.of_head(64)
    common = {"SIZE": 64, "WIDTH": sizes.width, "PACKED": False, "INPUT_TERMS": 1, "TERMS": 2, "bounds": None}
    walk = common | {"COLUMNS": sizes.columns, "LENGTH": BLOCK, "LEVELS": BLOCK.bit_length() - 1}
    tile = common | {"ROWS": sizes.rows, "COLUMNS": sizes.rows, "LENGTH": TILE, "LEVELS": TILE.bit_length() - 1}
    mix = {"CHANNELS": 768, "HEAD": 768, "ALIGN": 8, "MIXTURES": 3, "CORRECTED": False, "NORMED": True, "shift": 1}
    mix |= {f"END_{i}": 192 * i for i in range(1, 5)}
    forward, backward = {"BLOCK_T": 32, "BLOCK_C": 64}, {"BLOCK_T": 1, "BLOCK_C": 1024}
    walked = (f"bi_wkv6 outputs, {BLOCK} tokens a step", f"bi_wkv6 updates, {BLOCK} tokens a step")
    limited = {"num_warps": sizes.warps, "maxnreg": WALK_REGISTERS}
    tiled = f"bi_wkv6 gradients, {sizes.rows} channels, {TILE} tokens"
    for title, kernel, constants, options in (
        (walked[0], span_outputs_kernel, walk | {"states": None}, limited),
        (walked[1], span_updates_kernel, walk, {"num_warps": sizes.warps}),
        (tiled, span_gradients_kernel, tile, {"num_warps": sizes.rows_warps}),
        ("shift_mix forward, 2048 elements", mixtures_kernel, mix | forward, {"num_warps": 4}),
        ("shift_mix backward, a token a step", gradients_kernel, mix | backward, {"num_warps": 4}),
    ):
        print(f"{title}, {options['num_warps'] * 32} threads: {describe(compile_kernel(kernel, constants, options))}")


if __name__ == "__main__":
    main()
