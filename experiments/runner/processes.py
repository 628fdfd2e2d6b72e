"""A group of processes that ends as one: started together, watched, and none of them left behind.

The children call `end_with_parent`. Their standard input is a pipe that the parent holds and never writes to, so it
ends when the parent does, however that dies; that needs nothing of the operating system but pipes.
"""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 3.0
_TAIL_LINES, _TAIL_COLUMNS = 8, 300


class ProcessDiedError(Exception):
    """A process of the group ended with an error; the message names it and how, with its last words."""


class ProcessGroup:
    """A context manager: the processes run inside it, and all have ended after it.

    Each process has a session of its own, so a terminal's Ctrl-C reaches the parent alone, which then leaves the
    context. Their output goes to files in a temporary directory.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str], directory: Path) -> None:
        """Remembers what to start.

        Args:
            commands: one a process.
            environment: of every process.
            directory: their working directory.
        """
        self._commands, self._environment, self._directory = commands, environment, directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._exits: queue.SimpleQueue[int] = queue.SimpleQueue()  # indices of ended processes, in order

    def __enter__(self) -> Self:
        """Starts them all."""
        self._output = tempfile.TemporaryDirectory(prefix="processes-")
        try:
            for index, command in enumerate(self._commands):
                self._start(index, command)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends those that still run."""
        self._end()

    def lines(self) -> Iterator[str]:
        """Yields what process 0 prints, line by line as it comes, until all processes have ended well.

        Raises:
            ProcessDiedError: as soon as one ends otherwise.
        """
        rest, left = "", len(self._processes)
        with self._file(0, "out").open(encoding="utf-8") as output:
            while left:
                try:
                    index = self._exits.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    pass
                else:
                    left -= 1
                    self._raise_if_died(index)
                *whole, rest = (rest + output.read()).split("\n")
                yield from whole

    def _start(self, index: int, command: Sequence[str]) -> None:
        with self._file(index, "out").open("wb") as output, self._file(index, "err").open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env=dict(self._environment),
                cwd=self._directory,
                start_new_session=True,
            )
        self._processes.append(process)
        threading.Thread(target=self._announce_exit, args=(index,), daemon=True).start()

    def _announce_exit(self, index: int) -> None:
        """Waits in its own thread: polling couldn't tell which process died first and caused the others to."""
        self._processes[index].wait()
        self._exits.put(index)

    def _raise_if_died(self, index: int) -> None:
        process = self._processes[index]
        if process.returncode == 0:
            return
        raise ProcessDiedError(
            f"process {index} (pid {process.pid}) {_how(process.returncode)}"
            + ("; all others have been ended" if len(self._processes) > 1 else "")
            + "".join(f"\n  {line}" for line in self._last_words(index))
        )

    def _last_words(self, index: int) -> list[str]:
        text = self._file(index, "err").read_text(encoding="utf-8", errors="replace")
        return [line[:_TAIL_COLUMNS] for line in text.splitlines() if line.strip()][-_TAIL_LINES:]

    def _file(self, index: int, kind: str) -> Path:
        return Path(self._output.name) / f"{index}.{kind}"

    def _end(self) -> None:
        """Closes the pipes, asks those left to terminate, and kills those that don't."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._output.cleanup()


def end_with_parent() -> None:
    """Ends this process, at once and wherever it is, when its standard input does; called by each child."""
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> NoReturn:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)  # `sys.exit` would end this thread alone


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
