"""What timm notes about a model so that `save_for_hf` can write down how to build it again."""

from torch import nn

try:
    from timm.models._input import update_model_input_size
except ImportError:  # earlier versions of timm keep no such notes
    update_model_input_size = None  # type: ignore[assignment]


def record_input_size(model: nn.Module, img_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """Note that `model` has been moved to other sizes in pixels since it was built."""
    if update_model_input_size is not None:
        update_model_input_size(model, img_size, patch_size=patch_size)
