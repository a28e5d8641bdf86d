"""Train an image classifier: see --help."""

from vrwkv.commands.train_classifier import console

if __name__ == "__main__":
    console()
