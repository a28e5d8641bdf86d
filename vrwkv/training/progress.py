"""What the user sees while a run trains: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Progress of a run in steps, with the time that is left and the throughput.

    Args:
        total: steps of the whole run.
        start: steps that are finished already.
        batch_size: samples per step, over all processes.
        enabled: False silences everything (processes other than the main one).
        stream: defaults to stderr. A terminal gets tqdm's bar (if installed), anything else plain lines: the first
            step, then one at most every 10 seconds, and the last.
    """

    def __init__(
        self, total: int, start: int, batch_size: int, *, enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        self.total, self.start, self.batch_size, self.enabled = total, start, batch_size, enabled
        self.stream = sys.stderr if stream is None else stream
        self._began = time.monotonic()
        self._last_line = float("-inf")
        self._bar = self._tqdm() if enabled and self.stream.isatty() else None

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show that `step` steps are finished, with the values of the last one (such as loss and lr)."""
        if not self.enabled:
            return
        samples_per_second = (step - self.start) * self.batch_size / max(time.monotonic() - self._began, 1e-9)
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix({**shown, "samples/s": f"{samples_per_second:.0f}"}, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step == self.total:
            self._last_line = now
            remaining = (self.total - step) * self.batch_size / max(samples_per_second, 1e-9)
            metrics = "  ".join(f"{name} {value}" for name, value in shown.items())
            eta = format_seconds(remaining)
            self.message(f"step {step}/{self.total}  {metrics}  {samples_per_second:.0f} samples/s  ETA {eta}")

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Context for work that is no training (evaluating, saving), which throughput and ETA leave out."""
        entered = time.monotonic()
        yield
        self._began += time.monotonic() - entered

    def message(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self.stream)
        elif self.enabled:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _tqdm(self) -> Any:
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        return tqdm(total=self.total, initial=self.start, unit="step", dynamic_ncols=True, file=self.stream)


def format_seconds(seconds: float) -> str:
    """A duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
