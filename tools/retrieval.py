"""Measure image-text retrieval: see --help."""

from rwkv_clip.commands.retrieval import console

if __name__ == "__main__":
    console()
