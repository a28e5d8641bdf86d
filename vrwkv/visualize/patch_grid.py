"""Places in the grid of patches: what a click means, and what lies outside."""

from vrwkv.errors import InputError


def checked_patch(patch: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """The patch (row, column), if it lies in the grid (rows, columns).

    Raises:
        InputError: it does not.
    """
    row, column = patch
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise InputError(
            f"patch (row {row}, column {column}) lies outside the grid: rows 0 to {grid[0] - 1}, "
            f"columns 0 to {grid[1] - 1}"
        )
    return row, column


def patch_at_pixel(x: float, y: float, patch_size: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the patch that pixel (x to the right, y down) lies in.

    Args:
        x, y: as matplotlib's events give them (`event.xdata`, `event.ydata`): whole numbers are centres of pixels.
        patch_size: (height, width) in pixels, see `patch_size`.
    """
    return int((y + 0.5) // patch_size[0]), int((x + 0.5) // patch_size[1])
