"""Which learning rate counts, who was ahead, and the page that says so."""

import statistics
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from cpu_report import table
from small_classifiers_runs import DATA, ROWS, SCHEDULE, TUNING_FAMILY, Plan, Run

from vrwkv.data.font_characters import FAMILIES, HELD_OUT_FAMILIES, VARIANTS

TITLES = {"digits": "Scanned digits", "fonts": "Characters from fonts"}
COMPARED = (
    ("vrwkv", "vit"),
    ("vrwkv6", "vit"),
    ("vrwkv_deit", "vit_deit"),
    ("vrwkv", "resnet"),
    ("vrwkv6", "resnet"),
    ("vrwkv_deit", "vrwkv"),
    ("vit_deit", "vit"),
)
HELD_OUT_FONTS = sum(len(FAMILIES[family]) for family in HELD_OUT_FAMILIES)
HOW = {
    "digits": (
        "Scikit-learn's 1,797 scans of 8 × 8 pixels, ten classes, patches of 2 × 2. A fifth of each class is held out; "
        "another fifth of the training images is the tuning split."
    ),
    "fonts": (
        f"The digits and capital letters, 36 classes, of the fonts in matplotlib's wheel (`kind=fonts`), 24 × 24 "
        f"pixels in grays, {VARIANTS} images of each character in each font, patches of 6 × 6. Fonts are held out, not "
        f"images: {', '.join(HELD_OUT_FAMILIES)}, {HELD_OUT_FONTS} fonts of which nothing is trained on. "
        f"{TUNING_FAMILY}, {len(FAMILIES[TUNING_FAMILY])} of the {sum(map(len, FAMILIES.values())) - HELD_OUT_FONTS} "
        "training fonts, is the tuning split."
    ),
}
BUDGET = (
    "All rows of a data set have the same images, epochs, batch, crops, optimiser (AdamW, weight decay 0.05), schedule "
    f"({SCHEDULE.warmup_epochs:g} epochs of warm-up, then a cosine), label smoothing (0.1), limit on the norm of "
    "gradients (1.0) and learning rates to choose from, and all start from random weights. The rate is the one with "
    "the best accuracy on the tuning split after training with one seed on the rest of the training images; of equals "
    "the smallest. Then each seed is trained on all training images and judged once, at the end, on the held-out ones, "
    "which take part in no choice."
)
MODELS_USED = (
    "The models are made equally large by their width: this toolkit's vrwkv and vrwkv6 (4 blocks, 96 and 80 channels), "
    "timm's ViT (4 blocks, 100 channels, 4 heads, class token) and timm's ResNet-18-D (16 to 96 channels). The stem of "
    "the ResNet divides an image's sides by 4; its images are therefore enlarged before, as is usual with small ones: "
    + ", ".join(f"{DATA[name].image_size} to {DATA[name].shown_to_resnet} pixels" for name in DATA)
    + "."
)
DEIT = (
    "The DeiT recipe adds RandAugment (strength 9, noise 0.5, cut off at 9), Mixup 0.8, CutMix 1.0, random erasing "
    "0.25 and stochastic depth 0.1, as published. Left out are mirrored images and smaller crops, which would show "
    "other characters, and repeated augmentation, because all rows see each image once an epoch. It was made for 300 "
    "epochs of a million images, which is far from this budget."
)


def run_of(entry: dict[str, Any]) -> Run:
    """The run that an entry of the results belongs to."""
    return Run(**{field.name: entry[field.name] for field in fields(Run)})


def result_of(raw: dict[str, Any], run: Run) -> dict[str, Any] | None:
    """The result of a run; None if it is not there."""
    return next((each for each in raw["runs"] if run_of(each) == run), None)


def tuning_results(raw: dict[str, Any], plan: Plan, data: str, row: str) -> dict[float, dict[str, Any] | None]:
    """Results on the tuning split by rate."""
    return {rate: result_of(raw, Run(data, row, rate, plan.tuning_seed, True)) for rate in plan.learning_rates}


def chosen_rate(raw: dict[str, Any], plan: Plan, data: str, row: str) -> float | None:
    """The rate of the best accuracy on the tuning split, of equals the smallest; None before all are tried.

    None, too, if no loss stayed finite.
    """
    found = tuning_results(raw, plan, data, row)
    if any(result is None for result in found.values()):
        return None
    finished = {rate: result["top1"] for rate, result in sorted(found.items()) if result and "top1" in result}
    return max(finished, key=lambda rate: finished[rate], default=None)


def at_edge(plan: Plan, rate: float) -> bool:
    """Whether a better rate could lie outside the sweep."""
    return rate in (min(plan.learning_rates), max(plan.learning_rates))


def held_out(raw: dict[str, Any], plan: Plan, data: str, row: str) -> list[dict[str, Any]] | None:
    """Results at the chosen rate by seed; None if one is missing."""
    rate = chosen_rate(raw, plan, data, row)
    if rate is None:
        return None
    found = [result_of(raw, Run(data, row, rate, seed, False)) for seed in plan.seeds]
    complete = [result for result in found if result is not None]
    return complete if len(complete) == len(found) else None


def accuracies(raw: dict[str, Any], plan: Plan, data: str, row: str) -> list[float] | None:
    """Held-out accuracy of each seed in percent; None if one is missing or its loss did not stay finite."""
    found = held_out(raw, plan, data, row)
    if found is None or any("failed" in result for result in found):
        return None
    return [100 * result["top1"] for result in found]


def verdict(ours: Sequence[float], rival: Sequence[float]) -> str:
    """Who was ahead, in words; a lead is clear if every seed is above every seed of the other."""
    lead = statistics.fmean(ours) - statistics.fmean(rival)
    if min(ours) > max(rival):
        who = "ahead"
    elif max(ours) < min(rival):
        who = "behind"
    else:
        who = "no clear difference"
    return f"{lead:+.1f} points: **{who}**"


def render(raw: dict[str, Any], plan: Plan) -> str:
    """The page in Markdown; says what is not measured yet."""
    pairs = [(data, row) for data in plan.data for row in plan.rows]
    missing = sum(held_out(raw, plan, *pair) is None for pair in pairs)
    lines = [
        "# Small classifiers: do they learn?",
        "",
        *([f"**Not finished: {missing} of {len(pairs)} rows have no result.**", ""] if missing else []),
        f"Top-1 accuracy on held-out images, mean ± sample standard deviation of {len(plan.seeds)} seeds. "
        f"{raw['machine']}; every run has one thread. `python benchmarks/small_classifiers.py` reproduces this page; "
        "small_classifiers.json has every run.",
        "",
    ]
    for data in plan.data:
        lines += _data_set(raw, plan, data)
    lines += [
        "## How",
        "",
        BUDGET,
        "",
        _time(raw),
        "",
        MODELS_USED,
        "",
        DEIT,
        "",
        "## Learning rates",
        "",
        *_sweep(raw, plan),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _data_set(raw: dict[str, Any], plan: Plan, data: str) -> list[str]:
    head = ("", "parameters", "learning rate", "held-out top-1, %", "each seed, %", "CPU s a run")
    means = {row: statistics.fmean(found) for row in plan.rows if (found := accuracies(raw, plan, data, row))}
    best = max(means, key=lambda row: means[row], default=None)
    lines = [
        f"## {TITLES[data]}",
        "",
        f"{HOW[data]} {DATA[data].epochs} epochs, batch {DATA[data].batch_size}. Guessing is right in "
        f"{100 / DATA[data].classes:.1f} % of cases.",
        "",
        *table(head, (_row(raw, plan, data, row, row == best) for row in plan.rows)),
    ]
    if best is not None and len(means) == len(plan.rows):
        lines += [f"The highest mean is that of {ROWS[best].title}. {_one_image(raw, plan, data, best)}", ""]
    compared = [
        f"- {ROWS[ours].title} against {ROWS[rival].title}: {verdict(our_percent, rival_percent)}"
        for ours, rival in COMPARED
        if (our_percent := accuracies(raw, plan, data, ours)) and (rival_percent := accuracies(raw, plan, data, rival))
    ]
    if compared:
        lines += ["Difference of the means; clear if every seed is above, or below, every seed of the other:", ""]
        lines += [*compared, ""]
    return lines


def _time(raw: dict[str, Any]) -> str:
    minutes = sum(each.get("seconds", 0.0) for each in raw["runs"]) / 60
    return (
        f"All {len(raw['runs'])} runs together trained for {minutes:.0f} minutes of CPU time, next to other work on "
        "the machine. That is short, above all for a ViT, which usually gets many times as many epochs: the table says "
        "how fast models learn rather than where they end."
    )


def _one_image(raw: dict[str, Any], plan: Plan, data: str, row: str) -> str:
    found = held_out(raw, plan, data, row)
    assert found is not None
    samples = found[0]["samples"]
    return f"One of the {samples} held-out images is {100 / samples:.2f} points."


def _row(raw: dict[str, Any], plan: Plan, data: str, row: str, best: bool) -> tuple[str, ...]:
    title, parameters = ROWS[row].title, f"{raw['parameters'][data][row]:,}"
    rate, found = chosen_rate(raw, plan, data, row), held_out(raw, plan, data, row)
    if found is None or rate is None:
        tried = all(result is not None for result in tuning_results(raw, plan, data, row).values())
        said = "no rate kept the loss finite" if tried and rate is None else "not finished"
        return (title, parameters, "–" if rate is None else f"{rate:g}", said, "–", "–")
    edge = " (edge of the sweep)" if at_edge(plan, rate) else ""
    percent = accuracies(raw, plan, data, row)
    each = ", ".join("not finite" if "failed" in result else f"{100 * result['top1']:.1f}" for result in found)
    if percent is None:
        return (title, parameters, f"{rate:g}{edge}", "a loss was not finite", each, "–")
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    said = f"{statistics.fmean(percent):.1f}{spread}"
    seconds = f"{statistics.fmean(result['seconds'] for result in found):.0f}"
    return (title, parameters, f"{rate:g}{edge}", f"**{said}**" if best else said, each, seconds)


def _sweep(raw: dict[str, Any], plan: Plan) -> list[str]:
    cells = []
    for data in plan.data:
        for row in plan.rows:
            chosen = chosen_rate(raw, plan, data, row)
            found = tuning_results(raw, plan, data, row)
            words = [_tuning_cell(result, rate == chosen) for rate, result in found.items()]
            cells.append((f"{TITLES[data]}, {ROWS[row].title}", *words))
    return table(("accuracy on the tuning split, %", *(f"{rate:g}" for rate in plan.learning_rates)), cells)


def _tuning_cell(result: dict[str, Any] | None, chosen: bool) -> str:
    if result is None:
        return "not finished"
    if "failed" in result:
        return "not finite"
    return f"**{100 * result['top1']:.1f}**" if chosen else f"{100 * result['top1']:.1f}"
