"""Classify images with class names in words: see --help."""

from rwkv_clip.commands.zero_shot import console

if __name__ == "__main__":
    console()
