"""Figures without matplotlib's global state: nothing here opens a window or changes the caller's backend."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vrwkv.atomic_write import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of the given size in inches, drawn by Agg; a notebook shows it when a cell ends with it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        """A figure that a notebook can show without pyplot or `%matplotlib inline`."""

        def _repr_png_(self) -> bytes:
            return png_of(self)

    figure = ShownFigure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png_of(figure: "Figure") -> bytes:
    """The figure as PNG, cut to what is drawn so that no label is clipped and no margin is empty."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.12)
    return buffer.getvalue()


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG, atomically."""
    atomic_write(path, png_of(figure))


def shorten(text: str, width: int) -> str:
    """The text on one line of at most `width` characters, its end replaced by an ellipsis if it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
