"""The compiled copy of pixels into patches: torch's general one takes as long as the matrix product after it."""

from torch import Tensor

from vrwkv.ops.cpu_runtime.kernel import kernel
from vrwkv.ops.cpu_runtime.memory import empty_result
from vrwkv.ops.cpu_runtime.vectors import load32, store32, word_at


@kernel
def copy_patches(first, last, arguments):  # type: ignore[no-untyped-def]
    """A task is a row of patches; rows of pixels are a multiple of 64 bytes and copied as they are.

    Arguments: images, patches, channels, height and width in patches, P, bytes of Q pixels.
    """
    images, patches, channels = word_at(arguments), word_at(arguments + 8), word_at(arguments + 16)
    height, width = word_at(arguments + 24), word_at(arguments + 32)
    lines, line = word_at(arguments + 40), word_at(arguments + 48)
    for task in range(first, last):
        image, row = task // height, task % height
        for column in range(width):
            target = patches + (task * width + column) * channels * lines * line
            for channel in range(channels):
                source = images + (((image * channels + channel) * height + row) * lines * width + column) * line
                for _ in range(lines):
                    for offset in range(0, line, 64):
                        store32(target + offset, load32(source + offset))
                    source += line * width
                    target += line


def extract_patches_cpu(images: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """See `vrwkv.ops.patches.extract_patches`; images contiguous, rows of a patch a multiple of 64 bytes."""
    batch, channels = images.shape[:2]
    height, width = images.shape[2] // patch_size[0], images.shape[3] // patch_size[1]
    patches = empty_result((batch, height * width, channels * patch_size[0] * patch_size[1]), images.dtype)
    line = patch_size[1] * images.element_size()
    copy_patches(batch * height, images, patches, channels, height, width, patch_size[0], line, elements=images.numel())
    return patches
