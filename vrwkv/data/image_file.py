"""An image file that a user named, in a command or a notebook."""

from difflib import get_close_matches
from pathlib import Path

from PIL import Image

from vrwkv.data.source import CorruptSample, open_image
from vrwkv.errors import InputError


def read_image(path: str | Path, smallest: int = 1) -> Image.Image:
    """An image file as upright RGB, decoded as the training data is.

    Args:
        path: the file.
        smallest: pixels that either side needs, such as those of a patch.

    Raises:
        InputError: the file is missing (a close name in its folder is given), not an image, cut short, or too small.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        close = get_close_matches(path.name, siblings, n=1)
        raise InputError(f"image file {path} does not exist" + (f"; did you mean {close[0]}?" if close else ""))
    try:
        image = open_image(path)
    except CorruptSample as corrupt:
        raise InputError(f"{path} cannot be read as an image: {corrupt.reason}") from None
    if min(image.size) < smallest:
        raise InputError(
            f"{path} has {image.width}×{image.height} pixels, less than a patch of {smallest}×{smallest}: "
            "there is nothing to look at"
        )
    return image
