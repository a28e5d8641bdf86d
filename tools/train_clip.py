"""Train a two-tower model: see --help."""

from rwkv_clip.commands.train import console

if __name__ == "__main__":
    console()
