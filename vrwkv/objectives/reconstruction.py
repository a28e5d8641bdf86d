"""How well hidden patches of held-out images are painted, beside what a constant guess would reach."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from vrwkv.objectives.masked_autoencoder import MaskedAutoencoder
from vrwkv.objectives.masked_image_modelling import patch_targets
from vrwkv.objectives.masked_tokens import KeptTokens, random_kept_tokens


@torch.no_grad()
def reconstruction(
    model: MaskedAutoencoder,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    normalise_pixels: bool,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, float]:
    """Mean squared error over the hidden patches of all images, hidden by `seed` and the order of the images.

    Args:
        model: in eval mode.
        batches: with "image" (B, channels, H, W), in a fixed order.
        normalise_pixels: as in training.
        device: of the model.
        seed: of what is hidden.

    Returns:
        "reconstruction_loss", and "visible_mean_loss": that of painting the mean of an image's visible patches.
    """
    generator = torch.Generator().manual_seed(seed)
    patch_size = model.encoder.patch_embed.patch_size
    errors = {"reconstruction_loss": 0.0, "visible_mean_loss": 0.0}
    count = 0
    for batch in batches:
        images = batch["image"].to(device)
        grid = model.encoder.patch_embed.dynamic_feat_size((images.shape[2], images.shape[3]))
        drawn = random_kept_tokens(len(images), grid, model.mask_ratio, generator=generator)
        kept = KeptTokens(grid, drawn.index.to(device))
        outputs = model(images, kept)
        targets, hidden = patch_targets(images, patch_size, normalise_pixels), outputs["hidden"]
        guess = kept.select(targets).mean(1, keepdim=True)
        for name, painted in (("reconstruction_loss", outputs["prediction"].float()), ("visible_mean_loss", guess)):
            errors[name] += float(((painted - targets).square().mean(-1) * hidden).double().sum())
        count += int(hidden.sum())
    return {name: error / max(count, 1) for name, error in errors.items()}
