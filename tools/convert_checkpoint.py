"""Convert published checkpoints, and back: see --help. Vision-RWKV needs no open_clip, RWKV-CLIP does."""

from importlib.util import find_spec

if find_spec("open_clip") is not None:
    from rwkv_clip.commands.convert_checkpoint import console
else:
    from vrwkv.commands.convert_checkpoint import console

if __name__ == "__main__":
    console()
