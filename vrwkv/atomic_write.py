"""Files that are either the old version or the new one, never half of it."""

import os
from pathlib import Path


def atomic_write(path: Path, content: bytes | str) -> None:
    """Write a file through a temporary neighbour and a rename. Text is UTF-8; an existing file is replaced.

    Opened plainly rather than with `tempfile`, whose files only their owner may read.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
