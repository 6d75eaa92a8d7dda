"""A child process that runs one call at a time, can be killed during a call, and does not crash its parent.

Decoding a slide runs C code for many vendors' formats: it may hang, crash or use all memory. The parent of a
:class:`KillableWorker` survives all three and knows which call was responsible.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from enum import Enum
from multiprocessing.connection import Connection
from typing import Any

from comel.base.memory import keep_freed_memory
from comel.base.waiting import waiting_asleep
from comel.errors import ComelError

__all__ = ["Fault", "KillableWorker", "WorkerFailure"]

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 2.0
_FROZEN_SECONDS = 10.0
_PARENT_SECONDS = 0.5
_STANDARD_ERROR = 2
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from comel.base.killable import answer_calls
answer_calls(*sys.argv[2:])
"""


class Fault(Enum):
    """What can go wrong with work in another process.

    Attributes:
        START: its process cannot be started.
        DIED: its process died.
        KILLED: its process was killed by the system, as Linux does if memory runs out.
        LIMIT: it used more memory than allowed.
        MEMORY: it asked for more memory than there is.
        LATE: it took longer than allowed.
        STOPPED: it was ended by this process.
        BUSY: no process became free for it.
        DEFECT: it raised an exception that is not a user's mistake.
    """

    START, DIED, KILLED, LIMIT, MEMORY, LATE, STOPPED, BUSY, DEFECT = range(9)


class WorkerFailure(Exception):
    """A call to another process failed; :func:`comel.base.workers.failure` makes it a message for users.

    Attributes:
        fault: the kind of failure.
        kind: if the function raised an exception, the name of its class; "MemoryError" for every out-of-memory error.
        trace: the child's traceback in that case.
        exit_code: of a child that died, as :attr:`subprocess.Popen.returncode`: negative for a signal. None if it lived but
            closed its end of the pipe, and was killed for it.
    """

    def __init__(self, fault: Fault, said: str, *, kind: str = "", trace: str = "", exit_code: int | None = None) -> None:
        super().__init__(said)
        self.fault, self.kind, self.trace, self.exit_code = fault, kind, trace, exit_code


class KillableWorker:
    """A long-lived child process.

    The child is started at the first call, and again at the first call after it was killed or crashed; it stays between calls,
    so what a function keeps in module globals (an encoder, an open model) is loaded once. It ends with its parent, even
    if that is killed, and does not see Ctrl-C: the parent decides. Functions, arguments and results go through a pipe that
    only the two processes hold.

    One thread calls at a time; :meth:`kill` may come from any thread.

    Unlike it, a :mod:`multiprocessing` process re-imports the user's script, and a daemonic one, such as a Dask worker, may
    not have any. Linux and macOS only.

    Args:
        memory_bytes: most private memory that the child may allocate (``RLIMIT_DATA``, Linux), None for no limit. Code needing
            more fails in its own way; C libraries may crash or report a wrong error about their file.
        used_bytes: most private memory that the child may use (Linux), None for no limit. It is checked ten times a second
            during a call, and a child that uses more is killed.
        environment: variables for the child in addition to its parent's, such as ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(
        self,
        *,
        memory_bytes: int | None = None,
        used_bytes: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._memory_bytes, self._used_bytes, self._environment = memory_bytes, used_bytes, dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._killed = threading.Event()

    def __enter__(self) -> KillableWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None without a child."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        timeout: float | None = None,
        tell: Callable[[Any], None] | None = None,
    ) -> Any:
        """Run ``function(*arguments)`` in the child and return its result.

        Args:
            function: importable by name in the child. With ``tell`` it gets one more argument, a callable that sends a message.
            arguments: must be picklable, like the result.
            timeout: most seconds the call may take.
            tell: called here with each message that the function sends.

        Raises:
            ComelError: as the function raised it.
            WorkerFailure: the function raised another error; it took too long or too much memory, or :meth:`kill` was called
                meanwhile, and the child was killed; the child died; or no child could be started. A
                child that died while idle is replaced.
        """
        self._killed.clear()
        waited, begun = self.pid is not None, False
        try:
            pipe = self._started()
        except OSError as error:
            self._end()
            raise WorkerFailure(Fault.START, f"no process can be started ({error.strerror or error})") from None
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            pipe.send((function, arguments, tell is not None))
            while True:
                if pipe.poll(_POLL_SECONDS):
                    kind, content = pipe.recv()
                    if kind == "begun":
                        begun = True
                    elif kind != "told":
                        break
                    elif tell is not None:
                        tell(content)
                if deadline is not None and time.monotonic() > deadline:
                    self._end()
                    raise WorkerFailure(Fault.LATE, f"it took longer than {timeout:g} s")
                if self._used_bytes is not None and _used_bytes(self.pid) > self._used_bytes:
                    self._end()
                    raise WorkerFailure(Fault.LIMIT, f"it used more than {self._used_bytes / (1 << 30):g} GiB of memory")
        except (EOFError, OSError):
            # A child whose pipe just broke is about to exit, and its exit code says what happened.
            exit_code = self._end(patience=_GRACE_SECONDS)
            if self._killed.is_set():
                raise WorkerFailure(Fault.STOPPED, "it was stopped") from None
            if waited and not begun:
                return self.call(function, *arguments, timeout=timeout, tell=tell)
            raise _death(exit_code) from None
        except BaseException:
            # Anything the child still sends would be taken for the answer to the next call.
            self._end()
            raise
        if kind == "raised":
            raise content
        if kind == "failed":
            raise _exception(*content)
        return content

    def kill(self) -> None:
        """End the child at once; a call in progress fails as stopped."""
        self._killed.set()
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the child, giving it two seconds to exit by itself."""
        if self._pipe is not None:
            self._pipe.close()
        self._end(patience=_GRACE_SECONDS)

    def _started(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._pipe is not None:
            return self._pipe
        self._end()
        output = _where_errors_go()  # before the pipe, which might take the number of a closed one
        here, there = socket.socketpair()
        _give_up_after(here, _FROZEN_SECONDS)
        self._pipe = Connection(here.detach())
        with there, _out_of_reach_of_ctrl_c():
            descriptor = there.fileno()
            said = [json.dumps(sys.path), str(descriptor), str(os.getpid()), str(self._memory_bytes or 0)]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *said],
                stdin=subprocess.DEVNULL,
                stdout=output,
                pass_fds=[descriptor],
                env=os.environ | waiting_asleep(os.environ | self._environment) | self._environment,
            )
        return self._pipe

    def _end(self, *, patience: float = 0.0) -> int | None:
        """End the child, giving it some seconds to exit by itself; returns its exit code, None if it had to be killed."""
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is None:
            return None
        _wait(process, patience)
        exit_code = process.poll()
        process.kill()
        process.wait()
        return exit_code


@contextlib.contextmanager
def _out_of_reach_of_ctrl_c() -> Iterator[None]:
    """Children started in this block never get a SIGINT: they inherit the mask, so there is no moment before they ignore it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give_up_after(pipe: socket.socket, seconds: float) -> None:
    """Make sends and receives fail without progress for this long: a child that freezes in the middle of a message
    would otherwise keep its parent waiting for the rest, whatever the call's timeout."""
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        pipe.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(seconds), 0))


def _where_errors_go() -> int:
    """Keep what a function prints, such as a banner of a user's encoder, out of the parent's standard output."""
    try:
        os.fstat(_STANDARD_ERROR)
    except OSError:  # it was closed, as in a daemon
        return subprocess.DEVNULL
    return _STANDARD_ERROR


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def answer_calls(descriptor: str, parent: str, memory_bytes: str) -> None:
    """The child's main loop: answers calls until the pipe closes. All arguments are whole numbers as text."""
    keep_freed_memory()
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    if int(memory_bytes):
        _limit_memory(int(memory_bytes))
    pipe = Connection(int(descriptor))
    while True:
        try:
            function, arguments, tells = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(("begun", None))
        extra = (lambda message: pipe.send(("told", message)),) if tells else ()
        try:
            pipe.send(("returned", function(*arguments, *extra)))
        except ComelError as error:
            pipe.send(("raised", error))
        except BrokenPipeError:
            return
        except (Exception, SystemExit) as error:  # the parent decides what to do about it
            said = " ".join(str(error).split())[:300]
            kind = "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
            pipe.send(("failed", (kind, said, traceback.format_exc())))


def _end_with(parent: int) -> None:
    """Exit when the parent is gone: nothing would read the answer."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _limit_memory(size: int) -> None:
    import resource

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _used_bytes(pid: int | None) -> int:
    """Private memory of a process in bytes, resident or swapped out; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
            words = [line.split() for line in stream if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:"))]
    except OSError:
        return 0
    return sum(int(kib) << 10 for _, kib, _ in words)


def _exception(kind: str, message: str, trace: str) -> WorkerFailure:
    """The failure for an exception that is not a :class:`comel.errors.ComelError`."""
    # Python, torch on a GPU and torch on a CPU each report it differently.
    memory = kind in ("MemoryError", "OutOfMemoryError") or (kind == "RuntimeError" and "allocate memory" in message)
    said = f"{kind}: {message}" if message else kind
    return WorkerFailure(Fault.MEMORY if memory else Fault.DEFECT, said, kind=kind, trace=trace)


def _death(exit_code: int | None) -> WorkerFailure:
    if exit_code is None:
        return WorkerFailure(Fault.DIED, "the process no longer answered and was ended")
    fault = Fault.KILLED if exit_code == -signal.SIGKILL else Fault.DIED
    return WorkerFailure(fault, f"the process died ({_died_of(exit_code)})", exit_code=exit_code)


def _died_of(exit_code: int) -> str:
    if exit_code < 0:
        try:
            return f"signal {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"signal {-exit_code}"
    return f"exit code {exit_code}"
