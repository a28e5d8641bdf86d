"""results.json holds numbers of one state of the weights: what was measured on another one does not stay."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vrwkv.evaluate.results import read_results, write_results
from vrwkv.training.weights import bare_state_dict

WEIGHTS_KEY = "evaluated_weights"
RESOLUTIONS = ("resolution_top1",)
CLASSIFICATION = ("top1", "top5", "mean_per_class", "samples", "evaluation_data", *RESOLUTIONS)
PROBES = (
    "linear_probe_top1",
    "linear_probe_regularisation",
    "knn_top1",
    "knn_k",
    "probe_train_data",
    "probe_test_data",
)
REPORTS = {"top1": ("confusion.png", "per_class.csv"), "resolution_top1": ("resolution.png",)}
"""Files in report/ that show a number."""


def record_evaluation(run_folder: Path, model: nn.Module, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Write what was measured on a model; numbers of other weights go, and accuracies by resolution on other images.

    Args:
        run_folder: where results.json is.
        model: what was evaluated.
        numbers: the results, with `evaluation_data` where images were classified.

    Returns:
        All results, as they now stand in the file.
    """
    weights = weights_fingerprint(model)
    stale = _stale(read_results(run_folder), weights, numbers)
    results = write_results(run_folder, {**numbers, WEIGHTS_KEY: weights}, without=stale)
    for key in stale:
        for name in REPORTS.get(key, ()):
            if key not in numbers:
                (run_folder / "report" / name).unlink(missing_ok=True)
    if dropped := [key for key in stale if key not in numbers]:
        print(f"removed from results.json, measured on other weights or images: {', '.join(dropped)}")
    return results


def weights_fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that differ where any tensor of the model's state does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bare_state_dict(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _stale(earlier: Mapping[str, Any], weights: str, numbers: Mapping[str, Any]) -> list[str]:
    """Keys of the results so far that do not belong with the new ones."""
    known = earlier.get(WEIGHTS_KEY)
    if known not in (None, weights):
        keys: tuple[str, ...] = (*CLASSIFICATION, *PROBES)
    elif "evaluation_data" in numbers and (
        known is None or earlier.get("evaluation_data") != numbers["evaluation_data"]
    ):
        keys = RESOLUTIONS
    else:
        keys = ()
    return [key for key in keys if key in earlier]
