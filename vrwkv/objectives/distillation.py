"""Knowledge distillation from a frozen classifier (arXiv 1503.02531 soft, arXiv 2012.12877 hard)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.data.augmentation import ImageFormat


class Distillation:
    """A teacher that sees the student's images, brought to its own size and normalisation, and judges its logits.

    Args:
        teacher: classifier with the student's classes; it is frozen here and put into eval mode.
        seen: what the student's images look like.
        expected: what the teacher's should look like.
        kind: "soft": T² times the divergence KL(teacher || student) of both softmaxes at temperature T, mean over the
            images; "hard": cross-entropy with the teacher's best class.
        alpha: weight of the teacher's part of the loss.
        temperature: T.
    """

    def __init__(
        self,
        teacher: nn.Module,
        seen: ImageFormat,
        expected: ImageFormat,
        kind: Literal["soft", "hard"] = "soft",
        alpha: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        self.teacher = teacher.requires_grad_(False).eval()
        self.kind, self.alpha, self.temperature = kind, alpha, temperature
        self.size = expected.size
        # (x * seen.std + seen.mean - expected.mean) / expected.std, as one factor and one shift a channel
        std = torch.tensor(expected.std)
        self._factor = (torch.tensor(seen.std) / std)[:, None, None]
        self._shift = ((torch.tensor(seen.mean) - torch.tensor(expected.mean)) / std)[:, None, None]
        self._renormalise = (seen.mean, seen.std) != (expected.mean, expected.std)

    def loss(self, logits: Tensor, images: Tensor | list[Tensor]) -> Tensor:
        """The teacher's part, 0-dim.

        Args:
            logits: (B, C), the student's.
            images: (B, 3, H, W), or B images (3, H, W) of different sizes, as the student saw them.
        """
        with torch.no_grad():
            judged = self.teacher(self._prepare(images)).float()
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            if self.kind == "hard":
                return F.cross_entropy(logits, judged.argmax(dim=1))
            own = F.log_softmax(logits / self.temperature, dim=1)
            wanted = F.log_softmax(judged / self.temperature, dim=1)
            return F.kl_div(own, wanted, reduction="batchmean", log_target=True) * self.temperature**2

    def _prepare(self, images: Tensor | list[Tensor]) -> Tensor:
        if isinstance(images, list):
            return torch.cat([self._prepare(image[None]) for image in images])
        if self._renormalise:
            images = images * self._factor.to(images) + self._shift.to(images)
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, size=self.size, mode="bicubic", align_corners=False, antialias=True)
        return images
