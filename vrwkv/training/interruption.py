"""Ctrl-C and SIGTERM as a wish to stop after the current step, so that nothing is lost."""

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Context in which the first SIGINT or SIGTERM is remembered; a second SIGINT interrupts at once.

    Outside the main thread, where Python accepts no signal handlers, it only stays quiet.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


def signal_flags(received: int) -> list[float]:
    """The signal this process received (0 for none) as numbers that sum over processes; see `agreed_signal`."""
    return [float(received == number) for number in _SIGNALS]


def agreed_signal(totals: Sequence[float]) -> int:
    """The signal behind the sums of all processes' `signal_flags`, 0 if none received one."""
    return next((int(number) for number, total in zip(_SIGNALS, totals, strict=False) if total), 0)


def stop_exception(number: int) -> BaseException:
    """What ends the process after its state is saved: KeyboardInterrupt for SIGINT, exit status 143 for SIGTERM."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
