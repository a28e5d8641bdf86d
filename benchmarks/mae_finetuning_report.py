"""Which learning rate counts, who was ahead, and the page that says so."""

import statistics
from collections.abc import Sequence
from typing import Any

from cpu_report import table
from mae_finetuning_runs import FINE_TUNED, ROWS, SHORT, WHOLE, Plan

HOW = (
    f"A classifier learns from a few labelled images of each class. *{FINE_TUNED}* starts from a backbone pretrained "
    "on all training images without labels, once for each seed, at the recipe's learning rate, which was not tuned. "
    f"*{SHORT}* takes as many steps as that fine-tuning. *{WHOLE}* takes as long as pretraining and fine-tuning "
    "together, counted in images seen (repeats included) and rounded up to a whole pass; CPU seconds, taken next to "
    "other work on the machine, stand beside. Model, batch, augmentation, optimiser and schedule (warm-up over a tenth "
    "of the steps, then a cosine) are the same: those of `configs/classification/digits_nano.yaml`. Pretraining is "
    "that of `configs/mae/digits_nano.yaml` with fewer epochs, a tenth of them warm-up. Of the 359 held-out images, "
    "each is 0.3 points."
)
CHOICE = (
    "Each row and number of labels has a learning rate of its own: of those below, the one with the best mean accuracy "
    "on the tuning split, a fifth of the training images. Its labels serve this choice and nothing else: no classifier "
    "learns from these images, and pretraining sees them without labels. The held-out images take part in no choice. "
    "The seed decides which images are labelled, starting values, augmentation, order and masks; within a seed, all "
    "rows have the same labels, and a smaller number of them is part of any larger one."
)


def results_of(raw: dict[str, Any], labels: int, row: str) -> dict[float, dict[int, dict[str, Any]]]:
    """Results of a row by learning rate and seed."""
    found: dict[float, dict[int, dict[str, Any]]] = {}
    for each in raw["runs"]:
        if (each["labels"], each["row"]) == (labels, row):
            found.setdefault(each["rate"], {})[each["seed"]] = each
    return found


def complete(raw: dict[str, Any], plan: Plan, labels: int, row: str) -> bool:
    """Whether every run of a row is there."""
    found = results_of(raw, labels, row)
    return all(seed in found.get(rate, {}) for rate in plan.learning_rates for seed in plan.seeds)


def tuning_accuracy(by_seed: dict[int, dict[str, Any]]) -> float | None:
    """Mean over the seeds on the tuning split; None if a run did not stay finite."""
    if any("failed" in each for each in by_seed.values()):
        return None
    return statistics.fmean(each["tuning"] for each in by_seed.values())


def chosen_rate(by_rate: dict[float, dict[int, dict[str, Any]]]) -> float | None:
    """The learning rate of the best mean tuning accuracy, of equals the smallest; None if all failed."""
    means = {rate: tuning_accuracy(by_seed) for rate, by_seed in sorted(by_rate.items())}
    finished = {rate: mean for rate, mean in means.items() if mean is not None}
    return max(finished, key=lambda rate: finished[rate], default=None)


def held_out(raw: dict[str, Any], plan: Plan, labels: int, row: str) -> dict[int, float] | None:
    """Accuracy on the held-out images at the chosen rate, by seed; None if there is none, or not yet."""
    by_rate = results_of(raw, labels, row)
    rate = chosen_rate(by_rate) if complete(raw, plan, labels, row) else None
    return None if rate is None else {seed: by_rate[rate][seed]["held_out"] for seed in plan.seeds}


def verdict(ours: Sequence[float], rival: Sequence[float]) -> str:
    """Who was ahead, in words, from accuracies seed by seed; a lead is clear if every seed has it."""
    points = [100 * (a - b) for a, b in zip(ours, rival, strict=True)]
    each = ", ".join(f"{value:+.1f}" for value in points)
    who = "fine-tuning ahead" if min(points) > 0 else "training from scratch ahead" if max(points) < 0 else None
    seeds = "" if len(points) == 1 else f" (seed by seed {each})"
    return f"{statistics.fmean(points):+.1f} points{seeds}: {f'**{who}**' if who else '**no clear winner**'}"


def render(raw: dict[str, Any], plan: Plan) -> str:
    """The page in Markdown; says what is not measured yet."""
    rows = [(labels, row) for labels in plan.labels_per_class for row in ROWS]
    unfinished = sum(not complete(raw, plan, *each) for each in rows)
    lines = [
        "# Fine-tuning after masked pretraining, or training from scratch",
        "",
        *([f"**Not finished: {unfinished} of {len(rows)} rows are open.**", ""] if unfinished else []),
        f"Scikit-learn's digits; means ± sample standard deviations over {len(plan.seeds)} seeds. {raw['machine']}; "
        "several processes of one thread each. `python benchmarks/mae_finetuning.py` reproduces this page, "
        "mae_finetuning.json has every run.",
        "",
        HOW,
        "",
        *table(
            ("labels a class", "", "images seen", "CPU s", "learning rate", "held-out accuracy, %", "each seed, %"),
            (_accuracy_row(raw, plan, *each) for each in rows),
        ),
        "What fine-tuning is ahead by on the held-out images; a lead is clear if every seed has it:",
        "",
        *(line for labels in plan.labels_per_class for line in _verdicts(raw, plan, labels)),
        "",
        "## Learning rates",
        "",
        CHOICE,
        "",
        *_sweep(raw, plan),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _accuracy_row(raw: dict[str, Any], plan: Plan, labels: int, row: str) -> tuple[str, ...]:
    images = f"{plan.labelled_images(row):,}"
    if row == FINE_TUNED:
        images = f"{plan.pretraining_images:,} without labels + {images}"
    accuracies = held_out(raw, plan, labels, row)
    if accuracies is None:
        return (str(labels), row, images, "–", "–", "not finished", "–")
    by_rate = results_of(raw, labels, row)
    rate = chosen_rate(by_rate)
    assert rate is not None
    seconds = f"{statistics.fmean(by_rate[rate][seed]['seconds'] for seed in plan.seeds):.0f}"
    if row == FINE_TUNED:
        spent = statistics.fmean(raw["pretraining"][str(seed)]["seconds"] for seed in plan.seeds)
        seconds = f"{spent:.0f} + {seconds}"
    percent = [100 * value for value in accuracies.values()]
    spread = f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else ""
    each = ", ".join(f"{value:.1f}" for value in percent)
    return (str(labels), row, images, seconds, f"{rate:g}", f"{statistics.fmean(percent):.1f}{spread}", each)


def _verdicts(raw: dict[str, Any], plan: Plan, labels: int) -> list[str]:
    ours = held_out(raw, plan, labels, FINE_TUNED)
    lines = []
    for row in (SHORT, WHOLE):
        rival = held_out(raw, plan, labels, row)
        said = verdict(list(ours.values()), list(rival.values())) if ours and rival else "not finished"
        lines.append(f"- {labels} labels a class, against training {row}: {said}")
    return lines


def _sweep(raw: dict[str, Any], plan: Plan) -> list[str]:
    head = ("mean tuning accuracy, %", *(f"{rate:g}" for rate in plan.learning_rates))
    cells = []
    for labels in plan.labels_per_class:
        for row in ROWS:
            by_rate = results_of(raw, labels, row)
            chosen = chosen_rate(by_rate) if complete(raw, plan, labels, row) else None
            words = [
                _tuning_cell(by_rate.get(rate, {}), len(plan.seeds), rate == chosen) for rate in plan.learning_rates
            ]
            cells.append((f"{labels} labels a class, {row}", *words))
    return table(head, cells)


def _tuning_cell(by_seed: dict[int, dict[str, Any]], seeds: int, chosen: bool) -> str:
    if len(by_seed) < seeds:
        return "not finished"
    mean = tuning_accuracy(by_seed)
    if mean is None:
        return "not finite"
    return f"**{100 * mean:.1f}**" if chosen else f"{100 * mean:.1f}"
