"""Draw what a backbone looks at: see --help."""

from vrwkv.commands.visualize import console

if __name__ == "__main__":
    console()
