"""What `heal` is tried on: a program that computes with numpy, and says how far it is.

Arguments: the size of its matrices, and how many Python threads compute. Prints its PID; then, for
each line on stdin, the number of rounds so far and a checksum of one fixed computation.
"""

import os
import sys
import threading

import numpy as np

size, threads = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(1)
a = rng.random((size, size))
expected = (a @ a).sum()
rounds = [0] * threads
wrong: list[float] = []


def compute(number: int) -> None:
    while True:
        found = (a @ a).sum()
        if abs(found - expected) > 1e-9 * abs(expected):
            wrong.append(found)
        rounds[number] += 1


def answer() -> None:
    for _ in sys.stdin:
        print(sum(rounds), len(wrong), sorted(set(globals()) - names), flush=True)
    os._exit(0)


names = {*globals(), "names", "number"}
threading.Thread(target=answer, daemon=True).start()
for number in range(1, threads):
    threading.Thread(target=compute, args=[number], daemon=True).start()
print(os.getpid(), flush=True)
compute(0)
