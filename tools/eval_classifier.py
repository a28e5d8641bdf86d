"""Evaluate an image classifier: see --help."""

from vrwkv.commands.eval_classifier import console

if __name__ == "__main__":
    console()
