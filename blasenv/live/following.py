"""Keep the libraries of this process at what fits, while its CPU limit changes."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import blasenv
from blasenv.live import pools
from blasenv.live.refreshing import apply, look
from blasenv.machine.cgroup import find_levels
from blasenv.machine.observe import Observation

MOST = 4096  # bytes of a file that holds a limit


def _read(fd: int) -> bytes | str:
    try:
        return os.pread(fd, MOST, 0)
    except OSError as error:  # the group is gone: we are in another one
        return str(error)


class Follower:
    """A daemon thread that looks at the limit, and refreshes when the answer has changed."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """How often it looks."""
        self.ended = ""
        """Why it has stopped for good, "" while it follows."""
        self._stop = threading.Event()
        self._files: list[int] = []
        self._seen: object = None
        self._modules = 0
        self._counts: dict[tuple[str, str], int] = {}
        self._earlier: dict[tuple[str, str], set[int]] = {}
        self._lowered: set[tuple[str, str]] = set()
        self._main = _MainThread()
        self._refresh(look())
        self._look_first()
        self._thread = threading.Thread(target=self._run, name="blasenv-follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the counts stay as they are."""
        self.ended = self.ended or "it was stopped"
        self._stop.set()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.seconds):
                self.look()
        except Exception as error:  # noqa: BLE001  a helper in the background must not write into the program's stderr
            self.ended = f"{type(error).__name__}: {error}"
        finally:
            self.close()

    def look(self) -> None:
        """One look: some reads of open files, and more only where something has changed."""
        found = self._read()
        modules = len(sys.modules)
        if found == self._seen and modules == self._modules and not self._lowered:
            return
        if found != self._seen:
            self._look_first()
        self._modules = modules
        self._refresh(look())

    def _look_first(self) -> None:
        """Open the files that say what the limit is: /proc/self/cgroup, and one or two for each level."""
        self.close()
        paths = ["/proc/self/cgroup"]
        for level in find_levels():
            paths.append(level.path)
            if level.version == 1:
                paths.append(os.path.join(os.path.dirname(level.path), "cpu.cfs_period_us"))
        for path in paths:
            with contextlib.suppress(OSError):
                self._files.append(os.open(path, blasenv.READ))
        self._seen = self._read()

    def _read(self) -> object:
        return [_read(fd) for fd in self._files], os.sched_getaffinity(0)

    def close(self) -> None:
        """Close the open files."""
        for fd in self._files:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._files = []

    def _refresh(self, seen: Observation) -> None:
        """Set what counts for all threads here, and what belongs to the main thread there; stop if the user has."""
        lowered = set()
        for pool in pools.find():
            if isinstance(pool, pools.Closed) or pool.bound:
                continue
            key, count = (pool.kind, pool.path), pool.read()
            expected = self._counts.get(key, count)
            if count < expected:
                # threadpoolctl's limits, for a while; or for good. It is not raised, and looked at again:
                # what they put back at their end may be too high by then.
                lowered.add(key)
            elif count > expected and not (key in self._lowered and count in self._earlier[key]):
                self.ended = f"the program has set {pool.kind} to {count} itself"
                self._stop.set()
                return
        self._lowered = lowered
        for row in apply(seen, bound=False).changes:
            if row.after is not None and row.before is not None:
                key = (row.kind, row.path)
                self._earlier.setdefault(key, set()).update((row.before, row.after))
                if key not in lowered:
                    self._counts[key] = row.after
        self._main.run(seen)


class _MainThread:
    """Has something done in the main thread, at a safe point of it: OpenMP's count belongs to the calling thread.

    Py_AddPendingCall is the interpreter's own way (https://docs.python.org/3/c-api/init.html). While the
    main thread waits or is in one long call, it is not done; then it is done afterwards.
    """

    def __init__(self) -> None:
        self._waiting: Observation | None = None
        self._called = False
        self._function: object = None

    def run(self, seen: Observation) -> None:
        if threading.current_thread() is threading.main_thread():
            apply(seen)
            return
        self._waiting = seen
        if self._called:
            return  # the call that is pending will find what is to be done
        try:
            import ctypes

            kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
            self._function = self._function or kind(self._do)  # kept, because C has only its address
            self._called = ctypes.pythonapi.Py_AddPendingCall(self._function, None) == 0
        except (ImportError, AttributeError):
            return

    def _do(self, _: object) -> int:
        self._called = False
        seen, self._waiting = self._waiting, None
        if seen is not None:
            with contextlib.suppress(Exception):
                apply(seen)
        return 0


class _State:
    """The one follower of this process."""

    follower: Follower | None = None
    lock = threading.Lock()


def follow(seconds: float = 1.0) -> Follower:
    """Refresh now, and from then on whenever the limit of this process changes; looked at every ``seconds``.

    A second call changes how often. Ends for good when the program sets thread counts itself
    (``Follower.ended`` says so), and with ``Follower.stop()``. A forked child does not follow; it may
    call this itself (gunicorn: in post_fork). Raises ValueError for ``seconds`` that are not above 0.
    """
    if not seconds > 0:
        raise ValueError("seconds is a number above 0")
    with _State.lock:
        if _State.follower is None or _State.follower.ended:
            _State.follower = Follower(seconds)
        _State.follower.seconds = seconds
        return _State.follower


def _after_fork() -> None:
    """In a forked child: its thread is gone, and so is what it held."""
    _State.lock = threading.Lock()
    if _State.follower is not None:
        _State.follower.close()
        _State.follower = None


os.register_at_fork(after_in_child=_after_fork)
