"""How a console command ends: cleanly, or with one clear line when the user's input was at fault."""

import sys
from collections.abc import Callable, Sequence

from vrwkv.errors import InputError


def run_command(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Run `main` on the command-line arguments and turn an `InputError` into one line on stderr and exit status 2.

    Args:
        main: the command; takes the arguments after the program's name.
        arguments: defaults to `sys.argv[1:]`.

    Raises:
        SystemExit: status 2 after an `InputError`, 130 after Ctrl-C. Any other exception is a bug and keeps its traceback.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
