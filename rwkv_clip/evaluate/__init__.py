"""Evaluation of image-text models: zero-shot classification, retrieval, and the file their results go to."""

from rwkv_clip.evaluate.classify_images import classify_images
from rwkv_clip.evaluate.embedding import embed_images, embed_texts
from rwkv_clip.evaluate.results import format_results, write_results
from rwkv_clip.evaluate.retrieval import RetrievalResult, image_text_retrieval, top_matches
from rwkv_clip.evaluate.zero_shot import ZeroShotResult, class_embeddings, zero_shot_classification
from vrwkv.evaluate.results import read_results

__all__ = [
    "RetrievalResult",
    "ZeroShotResult",
    "class_embeddings",
    "classify_images",
    "embed_images",
    "embed_texts",
    "format_results",
    "image_text_retrieval",
    "read_results",
    "top_matches",
    "write_results",
    "zero_shot_classification",
]
