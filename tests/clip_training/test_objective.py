import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rwkv_clip.objective import ContrastiveObjective
from vrwkv.errors import InputError


class Features(nn.Module):
    """Stands for a model: the batch already holds the features."""

    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.3))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> dict[str, torch.Tensor]:
        features = {
            "image_features": F.normalize(image, dim=-1),
            "text_features": F.normalize(text, dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }
        return features if self.logit_bias is None else {**features, "logit_bias": self.logit_bias}


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(5, 7, generator=generator), "text": torch.randn(5, 7, generator=generator)}


def test_clip_loss_is_the_mean_of_both_cross_entropies() -> None:
    model, data = Features(), batch()
    image, text = F.normalize(data["image"], dim=-1).double(), F.normalize(data["text"], dim=-1).double()
    scores = math.exp(1.3) * image @ text.T
    by_hand = 0.0
    for i in range(5):
        by_hand -= (scores[i, i] - torch.logsumexp(scores[i], 0)) / 10
        by_hand -= (scores[i, i] - torch.logsumexp(scores[:, i], 0)) / 10
    loss, metrics = ContrastiveObjective("clip").loss(model, data)
    assert loss.item() == pytest.approx(float(by_hand), rel=1e-6)
    assert metrics["logit_scale"].item() == pytest.approx(math.exp(1.3))


def test_siglip_loss_judges_every_pair_by_itself() -> None:
    model, data = Features(bias=-2.0), batch()
    image, text = F.normalize(data["image"], dim=-1).double(), F.normalize(data["text"], dim=-1).double()
    scores = math.exp(1.3) * image @ text.T - 2.0
    signs = 2 * torch.eye(5) - 1
    by_hand = -F.logsigmoid(signs * scores).sum() / 5
    loss, _ = ContrastiveObjective("siglip").loss(model, data)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_siglip_without_a_bias_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.init_bias"):
        ContrastiveObjective("siglip").loss(Features(), batch())


def test_unknown_loss_is_refused() -> None:
    with pytest.raises(InputError, match="clip or siglip"):
        ContrastiveObjective("triplet")


@pytest.mark.parametrize(("value", "expected"), [(-0.5, 0.0), (2.0, 2.0), (7.0, math.log(100))])
def test_temperature_stays_between_1_and_100(value: float, expected: float) -> None:
    model = Features()
    model.logit_scale.data.fill_(value)
    ContrastiveObjective().after_step(model)
    assert model.logit_scale.item() == pytest.approx(expected)
