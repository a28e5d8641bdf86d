import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rwkv_clip.evaluate.retrieval import image_text_retrieval, top_matches
from vrwkv.errors import InputError


def oracle(scores: list[list[float]], pairs: list[tuple[int, int]]) -> tuple[dict[str, float], int, int]:
    """Recalls by comparing every query with every item in plain loops, and the number of excluded queries."""
    relevant = set(pairs)
    num_images, num_texts = len(scores), len(scores[0])
    recalls, excluded = {}, []
    directions = {
        "i2t": ([[(scores[i][t], (i, t) in relevant) for t in range(num_texts)] for i in range(num_images)]),
        "t2i": ([[(scores[i][t], (i, t) in relevant) for i in range(num_images)] for t in range(num_texts)]),
    }
    for direction, rows in directions.items():
        ranks = []
        for row in rows:
            if not any(hit for _, hit in row):
                continue
            best = max(score for score, hit in row if hit)
            ranks.append(sum(1 for score, hit in row if not hit and score >= best))
        excluded.append(len(rows) - len(ranks))
        for k in (1, 5, 10):
            recalls[f"{direction}_r{k}"] = sum(rank < k for rank in ranks) / len(ranks)
    return recalls, excluded[0], excluded[1]


def random_case(seed: int, num_images: int, num_texts: int) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Small integers as features: many exact ties, and sums that no order of summation can change."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-1, 2, (num_images, 4), generator=generator).float()
    texts = torch.randint(-1, 2, (num_texts, 4), generator=generator).float()
    draw = random.Random(seed)
    pairs = [(draw.randrange(num_images), draw.randrange(num_texts)) for _ in range(num_texts)]
    return images, texts, [*pairs, pairs[0]]


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("seed", "num_images", "num_texts"), [(0, 17, 40), (1, 40, 17), (2, 30, 30), (3, 1, 5), (4, 5, 1)]
)
def test_agrees_with_plain_loops(seed: int, num_images: int, num_texts: int, chunk_size: int) -> None:
    images, texts, pairs = random_case(seed, num_images, num_texts)
    result = image_text_retrieval(images, texts, pairs, chunk_size)
    scores = [[float(image @ text) for text in texts] for image in images]
    recalls, excluded_images, excluded_texts = oracle(scores, pairs)
    assert result.metrics() == pytest.approx(recalls)
    assert (result.excluded_images, result.excluded_texts) == (excluded_images, excluded_texts)
    assert result.image_queries == num_images - excluded_images
    assert result.text_queries == num_texts - excluded_texts


def test_pairs_may_come_as_a_tensor_in_any_order() -> None:
    images, texts, pairs = random_case(5, 20, 30)
    shuffled = torch.tensor(pairs)[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))]
    assert image_text_retrieval(images, texts, shuffled, 4) == image_text_retrieval(images, texts, pairs, 7)


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("chunk_size", [1, 4, 26, 1000])
def test_equal_items_tie_whatever_their_place_in_the_matrix_product(seed: int, chunk_size: int) -> None:
    """Unit features with many copies. A float32 product gives copies scores that differ in the last bit."""
    generator = torch.Generator().manual_seed(seed)
    image_kinds = F.normalize(torch.randn(6, 640, generator=generator), dim=1)
    text_kinds = F.normalize(image_kinds + 0.2 * torch.randn(6, 640, generator=generator), dim=1)
    image_kind = torch.randint(0, 6, (27,), generator=generator)
    text_kind = torch.randint(0, 6, (53,), generator=generator)
    pairs = [(index % 27, index) for index in range(53)]
    kind_scores = (image_kinds.double() @ text_kinds.double().T).tolist()
    scores = [[kind_scores[image][text] for text in text_kind] for image in image_kind]
    result = image_text_retrieval(image_kinds[image_kind], text_kinds[text_kind], pairs, chunk_size)
    assert result.metrics() == pytest.approx(oracle(scores, pairs)[0])


def test_a_collapsed_model_finds_nothing() -> None:
    feature = F.normalize(torch.randn(1, 37, generator=torch.Generator().manual_seed(3)), dim=1)
    pairs = [(index, index) for index in range(53)]
    result = image_text_retrieval(feature.repeat(53, 1), feature.repeat(53, 1), pairs, 7)
    assert set(result.recalls.values()) == {0.0}


def test_features_that_are_not_numbers_count_against_the_model() -> None:
    features = torch.eye(12)
    features[0] = float("nan")
    result = image_text_retrieval(features, torch.eye(12), [(index, index) for index in range(12)])
    assert result.recalls["i2t_r10"] == pytest.approx(11 / 12)
    assert result.recalls["t2i_r1"] == 0  # the broken image outranks every other one


@pytest.mark.parametrize(("num_images", "num_texts"), [(50, 9), (9, 50)])
def test_never_holds_more_than_a_chunk_of_scores(
    monkeypatch: pytest.MonkeyPatch, num_images: int, num_texts: int
) -> None:
    images, texts, pairs = random_case(6, num_images, num_texts)
    shapes: list[tuple[int, ...]] = []
    multiply = torch.mm

    def tracked(left: Tensor, right: Tensor) -> Tensor:
        product = multiply(left, right)
        shapes.append(tuple(product.shape))
        return product

    monkeypatch.setattr(torch, "mm", tracked)
    image_text_retrieval(images, texts, pairs, chunk_size=4)
    assert max(rows for rows, _ in shapes) == 4
    assert {columns for _, columns in shapes} == {num_texts}
    assert sum(rows for rows, _ in shapes) == 2 * num_images


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_top_matches_takes_the_earlier_of_equal_items(chunk_size: int) -> None:
    queries, items, _ = random_case(7, 11, 25)
    indices, scores = top_matches(queries, items, 6, chunk_size)
    for query, found, values in zip(queries, indices.tolist(), scores.tolist(), strict=True):
        cosines = [float(query @ item) for item in items]
        expected = sorted(range(25), key=lambda index: (-cosines[index], index))[:6]
        assert found == expected
        assert values == [cosines[index] for index in expected]
    assert top_matches(queries, items[:2], 5).indices.shape == (11, 2)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no relevant"),
        ([(0, 0), (3, 0)], r"\(image 3, text 0\) lies outside the 3 images and 2 texts"),
        ([(0, 2)], "lies outside"),
        ([(-1, 0)], "lies outside"),
        (torch.zeros(2, 3), "shape"),
    ],
)
def test_pairs_that_are_refused(pairs: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        image_text_retrieval(torch.eye(3), torch.eye(3)[:2], pairs)


def test_features_that_are_refused() -> None:
    with pytest.raises(InputError, match="do not fit"):
        image_text_retrieval(torch.zeros(2, 3), torch.zeros(2, 4), [(0, 0)])
    with pytest.raises(InputError, match="nothing to retrieve"):
        top_matches(torch.zeros(0, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match="chunk size 0"):
        image_text_retrieval(torch.eye(2), torch.eye(2), [(0, 0)], 0)
    with pytest.raises(InputError, match="at least 1"):
        top_matches(torch.eye(2), torch.eye(2), 0)
