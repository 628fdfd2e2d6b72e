"""An object that lives in a process of its own, and does what it is asked."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


class WorkerError(Exception):
    """What was asked of a worker failed there."""


class WorkerDiedError(WorkerError):
    """The process ended before it answered."""


class Worker:
    """A process that holds the object which `make(*arguments)` returns there.

    It ends with the `with` block, and by itself when the process that started it is gone.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        """Starts the process, which ignores Ctrl-C: its parent ends it."""
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        self.pid = self._process.pid
        theirs.close()  # so that the death of the process ends a wait for its answer

    def __enter__(self) -> "Worker":
        """Returns the worker."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Returns what the object's method returns there.

        Raises:
          WorkerError: it raised.
          WorkerDiedError: the process has ended.
        """
        try:
            self._connection.send((method, arguments))
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDiedError(f"the process ended with exit code {self._process.exitcode}") from None
        if not succeeded:
            raise WorkerError(answer)
        return answer


def _serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    made: list[Any] = []
    while True:
        try:
            method, values = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            if not made:
                made.append(make(*arguments))
            answer = True, getattr(made[0], method)(*values)
        except Exception as error:
            answer = False, f"{type(error).__name__}: {error}"
        try:
            connection.send(answer)
        except OSError:
            return


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here ignore SIGINT from the start, even during their imports."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
