"""How a console command ends: cleanly, or with one clear line when the user's input was at fault."""

import os
import sys
from collections.abc import Callable, Sequence

from vrwkv.errors import InputError

# What optional packages belong to, for those who installed the core only.
_EXTRAS = {
    **dict.fromkeys(("tyro", "yaml", "tqdm", "grain", "matplotlib", "tensorboard", "sklearn"), "train"),
    "open_clip": "clip",
    "pycocotools": "det",
    "datasets": "huggingface",
    **dict.fromkeys(("mmcv", "mmengine", "mmseg"), "seg"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
}


def run_command(main: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Run `main` on the command-line arguments and turn an `InputError` into one line on stderr and exit status 2.

    Args:
        main: the command; takes the arguments after the program's name.
        arguments: defaults to `sys.argv[1:]`.

    Raises:
        SystemExit: status 2 after an `InputError`, 130 after Ctrl-C. Any other exception is a bug: it passes through.
    """
    try:
        main(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except ImportError as error:
        if extra := _EXTRAS.get((error.name or "").split(".")[0]):
            print(f"error: {error.name} is not installed: pip install 'vrwkv[{extra}]'", file=sys.stderr)
            raise SystemExit(2) from None
        raise
    except BrokenPipeError:
        # The reader (head, less) has seen enough; keep Python from complaining about it once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
