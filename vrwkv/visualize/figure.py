"""Figures without matplotlib's global state: nothing here opens a window or changes the caller's backend."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def show_picture(axes: Any, picture: Any) -> None:
    """A photograph, or anything of its size, without ticks and frame."""
    axes.imshow(picture, interpolation="nearest")
    bare(axes)


def bare(axes: Any) -> None:
    """No ticks and no frame."""
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def heading(axes: Any, text: str) -> None:
    """A title at the left, in bold."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold")
