"""Train a detector: see --help."""

from vrwkv.commands.train_detector import console

if __name__ == "__main__":
    console()
