"""Pretrain a Vision-RWKV as a masked autoencoder: see --help."""

from vrwkv.commands.pretrain_mae import console

if __name__ == "__main__":
    console()
