"""What `heal` hands to another interpreter, behind the text of `pools`: it runs there, once, in the main thread.

As `pools`, it imports nothing of blasenv and prints nothing, and it leaves no name behind in the program.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from blasenv.live.pools import change

TOKEN, ANSWER, SCRIPT = "go", "answer", "heal.py"  # the files of the directory


def take(directory: str, **request: Any) -> None:
    """Do what is asked for (`pools.change`), if it still is, and write what came out as one line of JSON.

    Whoever asks holds a lock on the token. Who takes the token away decides: we before we begin, or
    the other side when it has waited long enough. A token without its lock is that of a healer that
    was killed: then nothing is done, and the directory goes.
    """
    token = os.path.join(directory, TOKEN)
    try:
        fd = os.open(token, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not _is_wanted(fd):
            for name in (TOKEN, ANSWER, SCRIPT):
                os.unlink(os.path.join(directory, name))
            os.rmdir(directory)
            return
        os.unlink(token)
        try:
            answer: dict[str, Any] = {"rows": change(**request)}
        except Exception as error:  # noqa: BLE001  what goes wrong is told to who asked, not to the program
            answer = {"error": f"{type(error).__name__}: {error}"}
        to = os.open(os.path.join(directory, ANSWER), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            text = _json(answer).encode() + b"\n"
            while text:
                text = text[os.write(to, text) :]
        finally:
            os.close(to)
    except OSError:
        pass
    except KeyboardInterrupt:
        # The user's Ctrl-C fell into our moment: it is the program's, so hand it on.
        import _thread

        _thread.interrupt_main()
    finally:
        os.close(fd)


def _is_wanted(fd: int) -> bool:
    """Whether somebody holds the lock on the token."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _json(value: object) -> str:
    """A value of str, int, None, list and dict as JSON in ASCII. (The program may not have loaded json.)"""
    if value is None:
        return "null"
    if isinstance(value, str):
        units = value.encode("utf-16-be", "surrogatepass")
        codes = [units[at] << 8 | units[at + 1] for at in range(0, len(units), 2)]
        return '"' + "".join(chr(c) if 31 < c < 127 and c not in (34, 92) else f"\\u{c:04x}" for c in codes) + '"'
    if isinstance(value, list):
        return "[" + ",".join([_json(item) for item in value]) + "]"
    if isinstance(value, dict):
        return "{" + ",".join([f"{_json(str(name))}:{_json(item)}" for name, item in value.items()]) + "}"
    return str(value)
