"""One training at a time in a run folder: a second one is refused, and told about the first."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout
from psutil import pid_exists

from digseg_nodes.core.files import write_text
from train.learning.resume import ResumeError

BEAT = 5.0
"""Seconds between two signs of life of a training."""
MISSED = 6
"""So many beats without a sign, and a training on another machine counts as dead."""
ORPHANS = 20.0
"""Seconds in which the data loader's processes notice that the training that started them was killed."""


class RunInUseError(ResumeError):
    """The run folder belongs to a training that is still going on; the message names it."""


@contextmanager
def sole_training(folder: Path) -> Iterator[None]:
    """Context in which this process is the only one that trains in `folder`; raises RunInUseError where another one does.

    Two guards, because a folder may be shared by machines: a lock that the operating system takes back from a process that
    ends, however it ends, and beside it a file that says who is training and is touched every few seconds. What a dead
    process left behind is taken over: at once on its own machine, after MISSED beats on another one.
    """
    lock, holder = FileLock(folder / "running.lock"), folder / "running.json"
    _take(lock, holder)
    try:
        if not _on_this_machine(holder) and _is_touched(holder):
            raise RunInUseError(_refusal(holder))
        write_text(holder, json.dumps(_identity()))
        with _beating(holder):
            yield
    finally:
        lock.release()


def _take(lock: FileLock, holder: Path) -> None:
    """Get the operating system's lock; a killed training's data loaders hold it for some seconds more."""
    try:
        dead = _on_this_machine(holder) and not pid_exists(_read(holder)["pid"])
        lock.acquire(timeout=ORPHANS if dead else 0)
    except Timeout:
        raise RunInUseError(_refusal(holder)) from None
    except NotImplementedError:  # a file system without locks; what the other file says still counts
        if holder.is_file() and _is_touched(holder):
            raise RunInUseError(_refusal(holder)) from None


def _identity() -> dict:
    """What the second training is told about this one."""
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _read(holder: Path) -> dict:
    """Who holds the folder, or held it; unknown where nobody did, or where the file is no longer whole."""
    unknown = {"pid": 0, "host": "", "since": "unknown"}
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return unknown
    whole = isinstance(found, dict) and all(isinstance(found.get(key), type(value)) for key, value in unknown.items())
    return found if whole else unknown


def _on_this_machine(holder: Path) -> bool:
    """Whether the last training was on this machine, or there is none; its lock is then one that we see."""
    return _read(holder)["host"] in ("", socket.gethostname())


def _is_touched(holder: Path) -> bool:
    """Whether somebody gives signs of life. Watched, not read from the clock: machines' clocks differ."""
    first = _touched_at(holder)
    for _ in range(MISSED):
        time.sleep(BEAT)
        if _touched_at(holder) != first:
            return holder.is_file()  # not one that has ended meanwhile
    return False


def _touched_at(holder: Path) -> int | None:
    try:
        with holder.open("rb") as file:  # opened, so that network file systems ask their server
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


@contextmanager
def _beating(holder: Path) -> Iterator[None]:
    """Context in which a thread touches the file every BEAT seconds; at its end the file goes."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            try:
                os.utime(holder)
            except OSError:  # the next one may get through
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        holder.unlink(missing_ok=True)


def _refusal(holder: Path) -> str:
    found = _read(holder)
    who = f"process {found['pid']} on {found['host']} since {found['since']}" if found["pid"] else "another process"
    return (
        f"A training is going on in {holder.parent} already: {who}. Wait for it, stop it there (Ctrl-C or kill, it saves its "
        "state), or name another `output:` folder."
    )
