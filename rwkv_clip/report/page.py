"""index.html of a run's report: a static page that needs nothing but the pictures beside it.

The page is a function of results.json, of the pictures and of `details.json`, where the parts that no picture or result
holds are kept. A later evaluation of the same run therefore adds to the report instead of wiping what was there.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from rwkv_clip.evaluate.results import FRACTIONS
from rwkv_clip.report.loss_curve import draw_loss, read_metrics
from rwkv_clip.report.retrieval_grid import RetrievalExample, draw_retrieval
from vrwkv.atomic_write import atomic_write
from vrwkv.errors import InputError
from vrwkv.evaluate.classification import per_class_table
from vrwkv.evaluate.confusion_plot import draw_confusion
from vrwkv.evaluate.results import format_skipped, read_results

LONGEST_TABLE = 50
"""Classes in the per-class table; of more, those with the lowest accuracy are shown."""
MEANINGS = {
    "zero_shot_top1": "of the images got the right class from text alone{chance}.",
    "zero_shot_top5": "of the images had the right class among the best five.",
    "zero_shot_mean_per_class": "accuracy within a class, averaged over classes, so rare classes count in full.",
    "i2t_r1": "of the images had a right caption as the nearest one.",
    "i2t_r5": "of the images had a right caption among the nearest five.",
    "i2t_r10": "of the images had a right caption among the nearest ten.",
    "t2i_r1": "of the captions had a right image as the nearest one.",
    "t2i_r5": "of the captions had a right image among the nearest five.",
    "t2i_r10": "of the captions had a right image among the nearest ten.",
}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid #ddd; } .number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; } .note { color: #666; }
"""


def write_report(
    run_folder: Path,
    *,
    title: str | None = None,
    confusion: Tensor | None = None,
    class_names: Sequence[str] | None = None,
    retrieval: Sequence[RetrievalExample] | None = None,
    chance_loss: float | None = None,
) -> Path:
    """Write RUN/report/: index.html and, where there is something to draw, loss.png, confusion.png and retrieval.png.

    The loss curve is drawn from metrics.jsonl and the numbers come from results.json, so write those first. What is not
    given here keeps the state of an earlier report of the same run.

    Args:
        run_folder: an existing run.
        title: heading of the page; the run folder's name by default.
        confusion: (C, C) counts, row = true class; needs `class_names`.
        class_names: the C classes.
        retrieval: queries with their images, for instance from `choose_examples`.
        chance_loss: the loss of guessing, drawn beside the loss; ln(global batch size) for the contrastive loss.

    Returns:
        The path of index.html.

    Raises:
        InputError: no such run folder, a broken metrics.jsonl or results.json, or a matrix that does not fit the names.
    """
    run_folder = Path(run_folder)
    results = read_results(run_folder)
    if (confusion is None) != (class_names is None):
        raise InputError("a confusion matrix and its class names must be given together")
    folder = run_folder / "report"
    folder.mkdir(exist_ok=True)
    details = _read_details(folder)
    if chance_loss is not None:
        details["chance_loss"] = float(chance_loss)
    if title is not None:
        details["title"] = title

    metrics = run_folder / "metrics.jsonl"
    if metrics.is_file():
        draw_loss(read_metrics(metrics), folder / "loss.png", details.get("chance_loss"))
    if confusion is not None and class_names is not None:
        draw_confusion(confusion, class_names, folder / "confusion.png")
        details["classes"] = [vars(row) for row in per_class_table(confusion, class_names)]
    if retrieval is not None:
        draw_retrieval(retrieval, folder / "retrieval.png")
        details["queries"] = [
            {"caption": example.caption, "correct": [bool(mark) for mark in example.correct]} for example in retrieval
        ]

    atomic_write(folder / "details.json", json.dumps(details, indent=1) + "\n")
    page = _page(details.get("title") or run_folder.resolve().name, results, details, folder)
    atomic_write(folder / "index.html", page)
    return folder / "index.html"


def _read_details(folder: Path) -> dict[str, Any]:
    path = folder / "details.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _page(title: str, results: Mapping[str, Any], details: Mapping[str, Any], folder: Path) -> str:
    sections = [_numbers(results, details)]
    if (folder / "loss.png").is_file():
        sections.append(_loss(details))
    if (folder / "confusion.png").is_file():
        sections.append(_confusion(details))
    if (folder / "retrieval.png").is_file():
        sections.append(_retrieval(details))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _numbers(results: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    num_classes = len(details.get("classes", []))
    chance = f"; guessing among {num_classes} classes gives {100 / num_classes:.1f} %" if num_classes else ""
    rows = [
        f'<tr><td>{escape(name)}</td><td class="number"><strong>{100 * results[key]:.1f} %</strong></td>'
        f"<td>{MEANINGS[key].format(chance=chance)}</td></tr>"
        for key, name in FRACTIONS.items()
        if results.get(key) is not None
    ]
    parts = ["<h2>Results</h2>"]
    parts.append(f"<table>\n{chr(10).join(rows)}\n</table>" if rows else "<p>This run has not been evaluated yet.</p>")
    if results.get("zero_shot_samples") is not None:
        parts.append(f'<p class="note">Zero-shot: {results["zero_shot_samples"]} images.</p>')
    if results.get("skipped"):
        parts.append(f'<p class="note">Skipped: {escape(format_skipped(results["skipped"]))}</p>')
    return "\n".join(parts)


def _loss(details: Mapping[str, Any]) -> str:
    chance = details.get("chance_loss")
    guessing = f" A model that guesses has a loss of {chance:.2f}, the dashed line." if chance is not None else ""
    return (
        "<h2>Training</h2>\n<p>The loss falls while the model learns which image and text belong together."
        f'{guessing}</p>\n<img src="loss.png" alt="Training loss over steps">'
    )


def _confusion(details: Mapping[str, Any]) -> str:
    parts = [
        "<h2>Zero-shot classes</h2>\n<p>A row is a true class, a column what the model said; right answers lie on the "
        'diagonal.</p>\n<img src="confusion.png" alt="Confusion matrix">'
    ]
    classes = details.get("classes", [])
    if len(classes) > LONGEST_TABLE:
        present = [row for row in classes if row["accuracy"] is not None]
        parts.append(f"<p>The {LONGEST_TABLE} classes with the lowest accuracy, of {len(classes)}:</p>")
        classes = sorted(present, key=lambda row: row["accuracy"])[:LONGEST_TABLE]
    rows = []
    for row in classes:
        accuracy = "no images" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %"
        rows.append(
            f'<tr><td>{escape(row["name"])}</td><td class="number">{row["samples"]}</td>'
            f'<td class="number">{accuracy}</td><td>{escape(row["most_common_error"] or "")}</td></tr>'
        )
    if rows:
        parts.append(
            '<table>\n<tr><th>class</th><th class="number">images</th><th class="number">right</th>'
            f"<th>most often taken for</th></tr>\n{chr(10).join(rows)}\n</table>"
        )
    return "\n".join(parts)


def _retrieval(details: Mapping[str, Any]) -> str:
    items = [
        f"<li>{escape(query['caption'])}: {sum(query['correct'])} of {len(query['correct'])} right</li>"
        for query in details.get("queries", [])
    ]
    return (
        "<h2>Retrieved images</h2>\n<p>Each row is a text query with its nearest images, best first; right ones are "
        'framed green (✓), wrong ones red (✗).</p>\n<img src="retrieval.png" alt="Images retrieved for text queries">\n'
        f"<ul>\n{chr(10).join(items)}\n</ul>"
    )
