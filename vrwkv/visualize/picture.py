"""How pictures stand in a figure."""

from typing import Any


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
