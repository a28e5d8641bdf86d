"""Test a segmentor of mmsegmentation: see --help."""

from vrwkv.commands.test_segmentor import console

if __name__ == "__main__":
    console()
