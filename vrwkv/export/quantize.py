"""Dynamic int8 quantisation of ONNX files, and what it costs."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.export.errors import ExportFailure

INPUTS_AT_ONCE = 8


def quantize_linear_layers(path: Path, module: nn.Module, output: Path) -> int:
    """Store the weights of an ONNX file's linear layers as int8, one scale for each output channel.

    Only products with the weight of an `nn.Linear` of `module` change: those inside the token mixers hold sums of
    logarithms, which 8 bits cannot. What enters a layer is quantised as it runs, with one scale for the tensor.

    Returns:
        Number of products that were quantised.

    Raises:
        ExportFailure: no linear layer was found in the file.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    graph = model.graph
    own = {_digest(weight) for layer in module.modules() if isinstance(layer, nn.Linear) for weight in _forms(layer)}
    linear = {tensor.name for tensor in graph.initializer if _digest(onnx.numpy_helper.to_array(tensor)) in own}
    nodes = [node.name for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in linear]
    if not nodes:
        raise ExportFailure("no linear layer of the model was found in the ONNX file, so nothing can be quantised")
    del graph.value_info[:]  # the quantiser transposes weights and would find their noted shapes wrong
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime advises a preparation that does nothing for these graphs
    try:
        # Unsigned: processors without VNNI cut sums of signed products off at 16 bits, a tenfold loss of accuracy.
        quantize_dynamic(model, output, nodes_to_quantize=nodes, per_channel=True, weight_type=QuantType.QUInt8)
    finally:
        logging.disable(level)
    return len(nodes)


def _forms(layer: nn.Linear) -> list[np.ndarray]:
    weight = layer.weight.detach().float().numpy()
    return [weight, weight.T]


def _digest(array: np.ndarray) -> tuple[tuple[int, ...], str]:
    return array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@dataclass(frozen=True)
class QuantizationCost:
    """int8 against float on the same inputs.

    Attributes:
        inputs: how many.
        mean_cosine, least_cosine: similarity of the outputs.
        relative: largest difference over the largest float output.
        same_winner: share of inputs whose largest output is the same; what accuracy can lose at most.
    """

    inputs: int
    mean_cosine: float
    least_cosine: float
    relative: float
    same_winner: float


def quantization_cost(
    exact: Callable[[Tensor], Tensor], quantized: Callable[[Tensor], Tensor], inputs: Tensor
) -> QuantizationCost:
    """Run both on `inputs`, a few at a time."""
    with torch.no_grad():
        expected = torch.cat([exact(part) for part in inputs.split(INPUTS_AT_ONCE)]).double().flatten(1)
        computed = torch.cat([quantized(part) for part in inputs.split(INPUTS_AT_ONCE)]).double().flatten(1)
    cosine = F.cosine_similarity(computed, expected, dim=1)
    return QuantizationCost(
        len(inputs),
        cosine.mean().item(),
        cosine.min().item(),
        ((computed - expected).abs().max() / expected.abs().max()).item(),
        (computed.argmax(1) == expected.argmax(1)).double().mean().item(),
    )


def format_cost(name: str, cost: QuantizationCost) -> str:
    """One line for people."""
    return (
        f"int8 against float on {cost.inputs} {name}: cosine similarity {cost.mean_cosine:.5f} (least "
        f"{cost.least_cosine:.5f}), largest difference {cost.relative:.1e} of the largest output, "
        f"same winner for {100 * cost.same_winner:.1f} %"
    )
