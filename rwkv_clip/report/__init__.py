"""The report of a run: a static page with its numbers, loss curve, confusion matrix and retrieved images."""

from rwkv_clip.report.page import write_report
from rwkv_clip.report.retrieval_grid import RetrievalExample, choose_examples

__all__ = ["RetrievalExample", "choose_examples", "write_report"]
