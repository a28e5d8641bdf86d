"""What the numbers of an image-text model's results.json are called."""

from vrwkv.evaluate.results import ResultNames

FRACTIONS = {
    "zero_shot_top1": "zero-shot top-1 accuracy",
    "zero_shot_top5": "zero-shot top-5 accuracy",
    "zero_shot_mean_per_class": "zero-shot mean per class",
    "i2t_r1": "image to text R@1",
    "i2t_r5": "image to text R@5",
    "i2t_r10": "image to text R@10",
    "t2i_r1": "text to image R@1",
    "t2i_r5": "text to image R@5",
    "t2i_r10": "text to image R@10",
}
"""Keys that hold fractions, in the order of the table, with their names for people."""
_NAMES = ResultNames(
    FRACTIONS,
    counts={
        "zero_shot_samples": "zero-shot images",
        "retrieval_images": "retrieval images",
        "retrieval_captions": "distinct captions",
    },
    shows_skipped=True,
)
write_results, format_results = _NAMES.write, _NAMES.format
