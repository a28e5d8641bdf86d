"""Image-text retrieval: how often the first k answers to a query contain a relevant one.

Exact, and bounded in memory: scores exist for `chunk_size` images at a time, against all texts. The rank of a query is
the number of irrelevant items that score at least as high as its best relevant one, so ties (and NaN) count against the
model and the result depends neither on the order of the items nor on the chunk size. For that, cosines are computed in
float64 and rounded to float32: equal items then have equal scores wherever they stand in a matrix product.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rwkv_clip.evaluate.embedding import embed_images as embed_images
from rwkv_clip.evaluate.embedding import embed_texts as embed_texts
from vrwkv.errors import InputError
from vrwkv.evaluate.mode import progress

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalResult:
    """Recalls as fractions of the queries that have a relevant item; the others are excluded and counted."""

    recalls: dict[str, float]
    """i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10: image-to-text and text-to-image recall at 1, 5 and 10."""
    image_queries: int
    text_queries: int
    excluded_images: int
    """Images without any relevant text."""
    excluded_texts: int
    """Texts without any relevant image."""

    def metrics(self) -> dict[str, float | int]:
        """The numbers under their names in results.json."""
        return dict(self.recalls)


class TopMatches(NamedTuple):
    """The best items of each query, best first: `indices` (Q, k) int64 and their cosines `scores` (Q, k) float32."""

    indices: Tensor
    scores: Tensor


def image_text_retrieval(
    image_features: Tensor,
    text_features: Tensor,
    relevant: Sequence[tuple[int, int]] | Tensor,
    chunk_size: int = 256,
) -> RetrievalResult:
    """Recall at 1, 5 and 10 in both directions.

    Args:
        image_features: (N, D) of unit length, as `embed_images` returns them.
        text_features: (M, D) of unit length, on the same device.
        relevant: (image index, text index) pairs. An image may have several texts and a text several images; any match
            counts. A pair given twice counts once.
        chunk_size: images scored at once; at most chunk_size x M scores exist at any time.

    Raises:
        InputError: no pairs, a pair that points outside the features, or features whose shapes do not fit.
    """
    _check_features(image_features, text_features, chunk_size)
    image_of_pair, text_of_pair = _sorted_pairs(relevant, len(image_features), len(text_features))
    image_of_pair, text_of_pair = image_of_pair.to(image_features.device), text_of_pair.to(image_features.device)
    image_ranks = torch.empty(len(image_features), dtype=torch.long, device=image_features.device)
    pair_scores = torch.empty(len(image_of_pair), device=image_features.device)

    for start, scores in _score_chunks(image_features, text_features, chunk_size, "image to text"):
        pairs = _pairs_of_images(image_of_pair, start, start + len(scores))
        rows, columns = image_of_pair[pairs] - start, text_of_pair[pairs]
        pair_scores[pairs] = scores[rows, columns]
        best = _best_of_groups(pair_scores[pairs], rows, len(scores))
        not_worse = (~(scores < best[:, None])).sum(dim=1)
        relevant_not_worse = ~(pair_scores[pairs] < best[rows])
        image_ranks[start : start + len(scores)] = not_worse.index_add(0, rows, relevant_not_worse.long(), alpha=-1)

    # The best image of a text is known only now, so the text queries need a second walk over the same chunks.
    best = _best_of_groups(pair_scores, text_of_pair, len(text_features))
    relevant_not_worse = ~(pair_scores < best[text_of_pair])
    text_ranks = torch.zeros(len(text_features), dtype=torch.long, device=text_features.device)
    text_ranks.index_add_(0, text_of_pair, relevant_not_worse.long(), alpha=-1)
    for _, scores in _score_chunks(image_features, text_features, chunk_size, "text to image"):
        text_ranks += (~(scores < best)).sum(dim=0)

    image_ranks, text_ranks = image_ranks[image_of_pair.unique()], text_ranks[text_of_pair.unique()]
    recalls = {f"i2t_r{k}": (image_ranks < k).double().mean().item() for k in RECALL_AT}
    recalls |= {f"t2i_r{k}": (text_ranks < k).double().mean().item() for k in RECALL_AT}
    return RetrievalResult(
        recalls=recalls,
        image_queries=len(image_ranks),
        text_queries=len(text_ranks),
        excluded_images=len(image_features) - len(image_ranks),
        excluded_texts=len(text_features) - len(text_ranks),
    )


def top_matches(query_features: Tensor, item_features: Tensor, k: int = 5, chunk_size: int = 256) -> TopMatches:
    """The k best items of each query; among equals the item that comes first. k is capped at the number of items.

    Raises:
        InputError: features whose shapes do not fit, or a k or chunk size below 1.
    """
    if k < 1:
        raise InputError(f"{k} best matches cannot be shown; at least 1 is needed")
    _check_features(query_features, item_features, chunk_size)
    indices, best_scores = [], []
    for _, scores in _score_chunks(query_features, item_features, chunk_size, "search"):
        ordered, order = scores.sort(dim=1, descending=True, stable=True)
        indices.append(order[:, :k].clone())
        best_scores.append(ordered[:, :k].clone())
    return TopMatches(torch.cat(indices), torch.cat(best_scores))


def _score_chunks(
    query_features: Tensor, item_features: Tensor, chunk_size: int, description: str
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of the first query, cosines (at most chunk_size, items) float32)."""
    items = item_features.double().T
    for start in progress(range(0, len(query_features), chunk_size), description):
        yield start, torch.mm(query_features[start : start + chunk_size].double(), items).float()


def _best_of_groups(scores: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """The highest score of each group; minus infinity for a group without scores."""
    lowest = scores.new_full((num_groups,), float("-inf"))
    return lowest.scatter_reduce(0, groups, scores, reduce="amax")


def _pairs_of_images(sorted_images: Tensor, start: int, stop: int) -> slice:
    """Which of the pairs, sorted by image, belong to images start..stop-1."""
    bounds = torch.searchsorted(sorted_images, torch.tensor([start, stop], device=sorted_images.device))
    return slice(int(bounds[0]), int(bounds[1]))


def _sorted_pairs(
    relevant: Sequence[tuple[int, int]] | Tensor, num_images: int, num_texts: int
) -> tuple[Tensor, Tensor]:
    """Distinct pairs sorted by image, as one index tensor for the images and one for the texts."""
    pairs = relevant.long() if isinstance(relevant, Tensor) else torch.tensor(relevant, dtype=torch.long)
    if pairs.numel() == 0:
        raise InputError("no relevant (image, text) pairs given: recall is undefined without a correct answer")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputError(f"relevant pairs must have shape (P, 2), got {tuple(pairs.shape)}")
    invalid = ((pairs < 0) | (pairs >= torch.tensor([num_images, num_texts], device=pairs.device))).any(dim=1)
    if invalid.any():
        image, text = pairs[invalid][0].tolist()
        raise InputError(
            f"relevant pair (image {image}, text {text}) lies outside the {num_images} images and {num_texts} texts"
        )
    keys = (pairs[:, 0] * num_texts + pairs[:, 1]).unique()
    return keys // num_texts, keys % num_texts


def _check_features(queries: Tensor, items: Tensor, chunk_size: int) -> None:
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise InputError(
            f"features {tuple(queries.shape)} and {tuple(items.shape)} do not fit; (N, D) and (M, D) are needed"
        )
    if not len(queries) or not len(items):
        raise InputError(f"nothing to retrieve: {len(queries)} and {len(items)} features")
    if chunk_size < 1:
        raise InputError(f"chunk size {chunk_size} is too small; it must be at least 1")
