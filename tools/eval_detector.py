"""Evaluate a detector: see --help."""

from vrwkv.commands.eval_detector import console

if __name__ == "__main__":
    console()
