"""Programs for `test_doctor_cases`: ``python suffers.py NAME [N]`` does one thing until it is killed.

Prints the PIDs of its workers and "ready" when it is at it. Needs numpy only where it says so.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable


def ready(*pids: int) -> None:
    print("ready", *pids, flush=True)


def numpy_work(size: int = 300) -> Callable[[], object]:
    import numpy

    a = numpy.ones((size, size))
    return lambda: a @ a


def forever(work: Callable[[], object]) -> None:
    while True:
        work()


def matmul() -> None:
    work = numpy_work(500)
    work()
    ready()
    forever(work)


def matmul_told_in_code() -> None:
    os.environ["OMP_NUM_THREADS"] = "2"
    matmul()


def executor(number: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    work = numpy_work()
    pool = ThreadPoolExecutor(number)
    for _ in range(number):
        pool.submit(forever, work)
    ready()


def computing_worker(_: int) -> None:
    forever(numpy_work())


def python_worker(_: int) -> None:
    forever(lambda: None)


def pool(number: int, method: str = "fork", worker: Callable[[int], None] = computing_worker) -> None:
    import multiprocessing

    workers = multiprocessing.get_context(method).Pool(number)
    result = workers.map_async(worker, range(number), chunksize=1)
    ready(*(process.pid for process in workers._pool))  # type: ignore[attr-defined]
    result.get()


def python_pool(number: int) -> None:
    pool(number, worker=python_worker)


def spawn_pool(number: int) -> None:
    pool(number, method="spawn")


def joblib_task() -> int:
    work = numpy_work()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        work()
    return os.getpid()


def joblib_workers(number: int) -> None:
    from joblib import Parallel, delayed

    with Parallel(n_jobs=number) as parallel:
        ready(*set(parallel(delayed(joblib_task)() for _ in range(2 * number))))
        while True:
            parallel(delayed(joblib_task)() for _ in range(8 * number))


def python_loop() -> None:
    ready()
    forever(lambda: None)


def gil(number: int) -> None:
    for _ in range(number):
        threading.Thread(target=forever, args=(lambda: None,)).start()
    ready()


def parent_of_one() -> None:
    code = "print('at it', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ready(child.pid)
        child.wait()


def sleeper_beside_another() -> None:
    pid = os.fork()
    if not pid:
        os.setsid()
        if os.fork():
            os._exit(0)
        forever(lambda: None)
    os.waitpid(pid, 0)
    ready()
    time.sleep(999)


def sleeper() -> None:
    ready()
    time.sleep(999)


def reads_a_pipe() -> None:
    read, _ = os.pipe()
    ready()
    os.read(read, 1)


def locked() -> None:
    lock = threading.Lock()
    lock.acquire()
    ready()
    lock.acquire()


def polls() -> None:
    import select

    ready()
    select.epoll().poll()


def zombie() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    time.sleep(0.2)
    ready(pid)
    time.sleep(999)


def more_threads_than_may_be() -> None:
    with contextlib.suppress(RuntimeError):  # can't start new thread
        forever(lambda: threading.Thread(target=time.sleep, args=(999,)).start())
    ready()
    time.sleep(999)


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(int, sys.argv[2:]))
