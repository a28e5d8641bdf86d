"""The rows of the table of targets, from the raw measurements: what was to be reached, and what was."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cpu_accuracy import LARGEST_ERROR
from cpu_models import LINEARS, OURS, OURS_6, VIT

IMAGE_CHANNELS, FLOAT32_BYTES = 3, 4
INFERENCE_TARGETS = {"8×224 px": 1.1, "1×512 px": 1.6, "1×1024 px": 3.4, "1×2048 px": 11.0}
TRAINING_TARGETS = {"8×224 px": 1.0, "1×512 px": 1.5, "1×1024 px": 3.0}
EXPORT_TARGETS = {"8×224 px": 1.0, "1×1024 px": 3.0}
LARGEST_SHAPE = "1×16384×192"
LARGEST_GROWTH = 1.05  # of a checkpointed training step's memory per token, which stays the same if it is linear


@dataclass(frozen=True)
class Row:
    """One number that was to be reached.

    Attributes:
        what: what is measured.
        target: the largest or smallest value that will do.
        at_most: whether `target` is the largest.
        measured: None where it was not measured.
    """

    what: str
    target: float
    at_most: bool
    measured: float | None

    @property
    def verdict(self) -> str:
        """ "reached", "missed" or "not measured"; NaN is missed."""
        if self.measured is None:
            return "not measured"
        reached = self.measured <= self.target if self.at_most else self.measured >= self.target
        return "reached" if reached else "missed"


def ratio(times: dict[str, Any], name: str, other: str) -> float:
    """Median time of `name` in that of `other`."""
    return times[name]["median"] / times[other]["median"]


def inference_bytes(size: int, tokens: int, channels: int) -> int:
    """An image of `size` pixels and eleven (T, C) tensors in float32."""
    return FLOAT32_BYTES * (IMAGE_CHANNELS * size * size + 11 * tokens * channels)


def target_rows(raw: dict[str, Any]) -> list[Row]:
    """Every row of the table; a number that `raw` lacks is not measured."""
    return [*_op_rows(raw), *_model_rows(raw), *_export_rows(raw), *_size_rows(raw)]


def _found(compute: Callable[..., float], *arguments: Any) -> float | None:
    """`compute(*arguments)`, or None where the measurements it looks up were not made."""
    try:
        return compute(*arguments)
    except KeyError:
        return None


def _op_rows(raw: dict[str, Any]) -> Iterator[Row]:
    for kind, limit in LARGEST_ERROR.items():
        what = f"bi_wkv, largest relative error against float64, decays ±30, T ≤ 16384, {kind}"
        yield Row(what, limit, True, _found(lambda kind: _worst_error(raw["errors"], kind), kind))
    for what, task, target in (("forward", "bi_wkv", 0.4), ("forward + backward", "bi_wkv + backward", 1.5)):
        yield Row(
            f"bi_wkv {what}, {LARGEST_SHAPE}, relative to one Linear(192, 192) forward on the same tensor",
            target,
            True,
            _found(lambda task: ratio(raw["ops"][LARGEST_SHAPE], task, "linear"), task),
        )


def _worst_error(errors: dict[str, Any], kind: str) -> float:
    by_shape = [errors[op] for op in ("bi_wkv", "bi_wkv with gate")]
    return max(
        *(found[LARGEST_SHAPE][kind] for found in by_shape), *(e[kind] for found in by_shape for e in found.values())
    )


def _model_rows(raw: dict[str, Any]) -> Iterator[Row]:
    def relative(kind: str, case: str, name: str, other: str) -> float | None:
        return _found(lambda: ratio(raw[kind][case]["times"], name, other))

    linears = relative("inference", "8×224 px", OURS, LINEARS)
    yield Row("vrwkv_tiny forward, 8×224 px, relative to its Linear layers alone", 1.35, True, linears)
    for kind, what, targets in (
        ("inference", "images/s", INFERENCE_TARGETS),
        ("training", "training steps/s", TRAINING_TARGETS),
    ):
        for case, target in targets.items():
            found = relative(kind, case, VIT, OURS)
            yield Row(f"vrwkv_tiny against vit_tiny, {what}, {case}, both eager", target, False, found)
    sixth = relative("inference", "8×224 px", OURS_6, OURS)
    yield Row("vrwkv6_tiny forward, 8×224 px, relative to vrwkv_tiny", 1.6, True, sixth)


def _export_rows(raw: dict[str, Any]) -> Iterator[Row]:
    def faster(case: str, runtime: str) -> float:
        return ratio(raw["export"]["measured"][case][runtime]["times"], VIT, OURS)

    for runtime, both in (("compiled", "both compiled"), ("onnxruntime", "both in onnxruntime")):
        for case, target in EXPORT_TARGETS.items():
            what = f"vrwkv_tiny against vit_tiny, images/s, {case}, {both} ([export.md](export.md))"
            yield Row(what, target, False, _found(faster, case, runtime))


def _size_rows(raw: dict[str, Any]) -> Iterator[Row]:
    def memory_growth(kind: str) -> float:
        peaks = raw["memory"]["inference"][kind]
        return peaks["4096 px"]["bytes"] / peaks["1024 px"]["bytes"]

    def memory_share(kind: str) -> float:
        peak = raw["memory"]["inference"][kind]["2048 px"]
        return peak["bytes"] / inference_bytes(2048, peak["tokens"], peak["channels"])

    span = "from 1024 to 4096 px (16 times the tokens)"
    grown = _found(lambda: ratio(raw["sizes"], "4096 px", "1024 px"))
    yield Row(f"vrwkv_tiny, time {span}, factor", 18, True, grown)
    for kind in ("live", "resident"):
        what = f"vrwkv_tiny, peak memory above the weights, {kind}"
        yield Row(f"{what}, {span}, factor", 16.5, True, _found(memory_growth, kind))
        yield Row(f"{what}, 1×2048 px, relative to input + 11·T·C·4 B", 1.5, True, _found(memory_share, kind))
    yield Row(
        "vrwkv_tiny, checkpointed training step, live memory per token, 2048 px relative to 512 px (linear in T: 1)",
        LARGEST_GROWTH,
        True,
        _found(lambda: _per_token(raw, "2048 px") / _per_token(raw, "512 px")),
    )


def _per_token(raw: dict[str, Any], size: str) -> float:
    peak = raw["memory"]["training, checkpointed"]["live"][size]
    return peak["bytes"] / peak["tokens"]
