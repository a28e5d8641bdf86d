"""Judge frozen features by a linear probe and by nearest neighbours: see --help."""

from vrwkv.commands.linear_probe import console

if __name__ == "__main__":
    console()
