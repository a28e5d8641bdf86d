import math

import pytest
import torch

from vrwkv.errors import InputError
from vrwkv.evaluate.classification import (
    confusion_matrix,
    mean_per_class_accuracy,
    per_class_table,
    predicted_classes,
    target_ranks,
    top_k_accuracy,
)


def oracle_rank(row: list[float], target: int) -> int:
    return sum(1 for index, score in enumerate(row) if index != target and not score < row[target])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_ranks_equal_a_plain_count_with_many_ties(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (200, 7), generator=generator).to(dtype)
    targets = torch.randint(0, 7, (200,), generator=generator)
    expected = [oracle_rank(row, target) for row, target in zip(logits.tolist(), targets.tolist(), strict=True)]
    assert target_ranks(logits, targets).tolist() == expected
    for k in (1, 3, 5):
        assert top_k_accuracy(logits, targets, k) == pytest.approx(sum(rank < k for rank in expected) / 200)
    predictions = predicted_classes(logits, targets)
    assert (predictions == targets).tolist() == [rank == 0 for rank in expected]


def test_prediction_is_the_best_class_and_the_lowest_index_among_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [5.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    assert predicted_classes(logits, torch.tensor([0, 0, 0, 2])).tolist() == [1, 0, 1, 0]


def test_constant_scores_earn_nothing() -> None:
    targets = torch.arange(10)
    assert top_k_accuracy(torch.zeros(10, 10), targets, 1) == 0
    assert top_k_accuracy(torch.zeros(10, 10), targets, 5) == 0


def test_scores_that_are_not_numbers_never_count_as_right() -> None:
    logits = torch.tensor([[math.nan] * 3, [math.nan, 1.0, 2.0], [3.0, math.nan, 1.0], [-math.inf] * 3])
    targets = torch.tensor([0, 0, 0, 0])
    assert target_ranks(logits, targets).tolist() == [2, 2, 1, 2]
    assert (predicted_classes(logits, targets) != targets).all()


def test_two_classes_have_a_top_five_accuracy_of_one() -> None:
    logits, targets = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]]), torch.tensor([1, 1, 0])
    assert top_k_accuracy(logits, targets, 1) == pytest.approx(2 / 3)
    assert top_k_accuracy(logits, targets, 5) == 1


def test_mean_per_class_leaves_out_absent_classes(recwarn: pytest.WarningsRecorder) -> None:
    targets = torch.tensor([0, 0, 0, 0, 2])
    predictions = torch.tensor([0, 0, 0, 1, 2])
    assert mean_per_class_accuracy(targets, predictions) == pytest.approx((3 / 4 + 1) / 2)
    assert not recwarn.list


def test_confusion_rows_are_true_classes() -> None:
    confusion = confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), 4)
    expected = torch.zeros(4, 4, dtype=torch.long)
    expected[0, 2] = expected[0, 0] = expected[1, 1] = 1
    assert torch.equal(confusion, expected)


def test_per_class_table() -> None:
    rows = per_class_table(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 2]]), ["cat", "dog", "owl"])
    assert [(row.name, row.samples, row.accuracy, row.most_common_error) for row in rows] == [
        ("cat", 4, 0.75, "dog"),
        ("dog", 0, None, None),
        ("owl", 2, 1.0, None),
    ]


@pytest.mark.parametrize("label", [-1, 3])
def test_label_outside_the_classes(label: int) -> None:
    with pytest.raises(InputError, match=f"label {label} is not one of the 3 classes"):
        target_ranks(torch.zeros(1, 3), torch.tensor([label]))


def test_other_wrong_inputs() -> None:
    targets = torch.tensor([0])
    with pytest.raises(InputError, match="do not fit"):
        target_ranks(torch.zeros(2, 3), targets)
    with pytest.raises(TypeError, match="floating point"):
        target_ranks(torch.zeros(1, 3, dtype=torch.long), targets)
    with pytest.raises(InputError, match="at least 1"):
        top_k_accuracy(torch.zeros(1, 3), targets, 0)
    nothing = torch.empty(0, dtype=torch.long)
    with pytest.raises(InputError, match="no samples"):
        top_k_accuracy(torch.zeros(0, 3), nothing)
    with pytest.raises(InputError, match="no samples"):
        confusion_matrix(nothing, nothing, 3)
    with pytest.raises(InputError, match="no samples"):
        mean_per_class_accuracy(nothing, nothing)
    with pytest.raises(InputError, match="2 class names"):
        per_class_table(torch.zeros(3, 3, dtype=torch.long), ["a", "b"])
