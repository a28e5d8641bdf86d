"""Train a segmentor of mmsegmentation: see --help."""

from vrwkv.commands.train_segmentor import console

if __name__ == "__main__":
    console()
