"""Image-text data: sources of pairs, caption templates, the transform that makes a training sample, retrieval sets."""
