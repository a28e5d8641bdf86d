import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrwkv.data.augmentation import ImageFormat
from vrwkv.errors import InputError
from vrwkv.objectives.classification import ClassificationObjective
from vrwkv.objectives.classifier_config import LossConfig
from vrwkv.objectives.distillation import Distillation
from vrwkv.training.randomness import seed_generators

CLASSES = 5
HALF = ImageFormat(4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Linear(nn.Module):
    """A classifier of 3 × 4 × 4 images; keeps what it saw."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(CLASSES, 48, generator=generator) / 7)
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.flatten(1)[:, :48] @ self.weight.T


def batch(size: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(size) % CLASSES
    return {"image": torch.randn(size, 3, 4, 4, generator=generator), "label": labels, "index": torch.arange(size)}


def objective(distillation: Distillation | None = None, **loss: object) -> ClassificationObjective:
    return ClassificationObjective(LossConfig(**loss), CLASSES, distillation)  # type: ignore[arg-type]


def test_smoothed_cross_entropy_by_hand() -> None:
    model, data = Linear(0), batch()
    loss, metrics = objective(label_smoothing=0.2).loss(model, data)
    logits = model(data["image"]).double()
    targets = F.one_hot(data["label"], CLASSES) * 0.8 + 0.2 / CLASSES
    assert loss.item() == pytest.approx(-(targets * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-6)
    assert metrics["train_top1"].item() == pytest.approx((logits.argmax(1) == data["label"]).double().mean().item())


@pytest.mark.parametrize("sums", [False, True])
def test_binary_cross_entropy_by_hand(sums: bool) -> None:
    model, data = Linear(0), batch()
    loss, _ = objective(name="bce", label_smoothing=0.0, bce_sum_classes=sums).loss(model, data)
    logits = model(data["image"]).double()
    signs = 2 * F.one_hot(data["label"], CLASSES) - 1
    single = -F.logsigmoid(signs * logits)
    assert loss.item() == pytest.approx((single.sum(1).mean() if sums else single.mean()).item(), rel=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_are_probabilities_and_the_loss_is_linear_in_them(mode: str, kind: str) -> None:
    mixing = objective(**{kind: 0.8}, mix_mode=mode, label_smoothing=0.1)
    model, data = Linear(0), batch()
    before = data["image"].clone()
    seed_generators(5)
    assert mixing.mixup is not None
    images, targets = mixing.mixup(before.clone(), data["label"])
    assert torch.allclose(targets.sum(1), torch.ones(6))
    assert targets.min() >= 0.1 / CLASSES - 1e-7
    seed_generators(5)
    loss, metrics = mixing.loss(model, data)
    assert torch.equal(model.seen, images)
    assert not torch.equal(images, before)
    assert torch.equal(data["image"], before), "the batch belongs to the loader"
    by_hand = -(targets * model(images).log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert metrics == {}


def test_thresholded_mixed_targets_are_yes_or_no() -> None:
    model, data = Linear(0), batch()
    mixing = objective(name="bce", mixup=0.8, bce_target_threshold=0.2, label_smoothing=0.0)
    seed_generators(2)
    loss, _ = mixing.loss(model, data)
    seed_generators(2)
    images, targets = mixing.mixup(data["image"].clone(), data["label"])  # type: ignore[misc]
    expected = F.binary_cross_entropy_with_logits(model(images), (targets > 0.2).float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixing_is_a_function_of_the_global_seed() -> None:
    losses = []
    for seed in (3, 3, 4):
        seed_generators(seed)
        losses.append(objective(mixup=0.8, cutmix=1.0).loss(Linear(0), batch())[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_an_odd_number_of_images_cannot_be_paired() -> None:
    with pytest.raises(InputError, match=r"data\.batch_size leaves each 3"):
        ClassificationObjective(LossConfig(mixup=0.8), CLASSES, None, local_batch_size=3)
    ClassificationObjective(LossConfig(), CLASSES, None, local_batch_size=3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"mixup": -1.0}, "mixup"),
        ({"mix_probability": 1.5}, "mix_probability"),
        ({"bce_target_threshold": 0.2}, r"loss\.name=bce"),
    ],
)
def test_impossible_losses(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LossConfig(**wrong)  # type: ignore[arg-type]


def test_soft_distillation_by_hand() -> None:
    student, teacher, data = Linear(0), Linear(1), batch()
    taught = objective(Distillation(teacher, HALF, HALF, "soft", 0.3, 2.0), label_smoothing=0.0)
    loss, metrics = taught.loss(student, data)
    own, judged = student(data["image"]).double(), teacher(data["image"]).double()
    wanted = (judged / 2).softmax(1)
    divergence = (wanted * (wanted.log() - (own / 2).log_softmax(1))).sum(1).mean() * 4
    by_hand = 0.7 * F.cross_entropy(own, data["label"]) + 0.3 * divergence
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert metrics["teacher_loss"].item() == pytest.approx(divergence.item(), rel=1e-5)


def test_hard_distillation_takes_the_teachers_best_class() -> None:
    student, teacher, data = Linear(0), Linear(1), batch()
    loss, _ = objective(Distillation(teacher, HALF, HALF, "hard", 1.0)).loss(student, data)
    best = teacher(data["image"]).argmax(1)
    assert loss.item() == pytest.approx(F.cross_entropy(student(data["image"]), best).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_gradient_reaches_the_student_only(kind: str) -> None:
    student, teacher = Linear(0), Linear(1)
    taught = objective(Distillation(teacher, HALF, HALF, kind), mixup=0.8)  # type: ignore[arg-type]
    taught.loss(student, batch())[0].backward()
    assert student.weight.grad is not None
    assert student.weight.grad.abs().max() > 0
    assert teacher.weight.grad is None
    assert not teacher.training


def test_nothing_is_left_to_learn_from_a_teacher_that_agrees() -> None:
    student = Linear(0)
    loss, _ = objective(Distillation(Linear(0), HALF, HALF, "soft", 1.0, 3.0)).loss(student, batch())
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert student.weight.grad.abs().max() < 1e-6  # type: ignore[union-attr]


def test_the_teacher_sees_its_own_normalisation_and_size() -> None:
    teacher = Linear(1)
    expected = ImageFormat(8, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    pixels = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(2, 3, 4, 4)
    Distillation(teacher, HALF, expected).loss(torch.zeros(2, CLASSES), (pixels - 0.5) / 0.25)
    mean, std = (torch.tensor(value)[:, None, None] for value in (expected.mean, expected.std))
    assert teacher.seen.shape == (2, 3, 8, 8)  # type: ignore[union-attr]
    assert np.allclose(teacher.seen, ((pixels[..., :1, :1] - mean) / std).expand(2, 3, 8, 8), atol=1e-5)
