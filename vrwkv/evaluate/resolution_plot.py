"""resolution.png: accuracy over the size of the images, with the size of training marked."""

from collections.abc import Mapping
from pathlib import Path

from vrwkv.errors import InputError
from vrwkv.figure import new_figure, save_figure

BLUE = "#1f5fa8"


def draw_resolutions(accuracies: Mapping[int, float], path: Path, trained_at: int | None = None) -> None:
    """Draw accuracy by image size into a PNG.

    Args:
        accuracies: size in pixels -> accuracy as a fraction.
        path: the PNG.
        trained_at: the size of training, drawn as a dashed line.

    Raises:
        InputError: nothing to draw.
    """
    if not accuracies:
        raise InputError("no resolutions to draw")
    sizes = sorted(accuracies)
    percents = [100 * accuracies[size] for size in sizes]
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot(sizes, percents, color=BLUE, marker="o", linewidth=1.8)
    for size, percent in zip(sizes, percents, strict=True):
        axes.annotate(
            f"{percent:.1f}", (size, percent), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9
        )
    if trained_at is not None:
        axes.axvline(
            trained_at, color="#777777", linestyle="--", linewidth=1.2, label=f"trained at {trained_at} pixels"
        )
        axes.legend(loc="best", framealpha=0.9, edgecolor="none", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(0, 107)
    axes.set_xlabel("size of the images, pixels")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_title("Accuracy at other resolutions", loc="left", fontsize=12, fontweight="bold")
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
