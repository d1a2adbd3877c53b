from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from reference.errands import Errands, Impossible
from temperance.errors import Interrupted, UserError
from temperance.studies.executors import STOP, ExecutorArgs, InProcess, executor
from temperance.studies.local_pool import LocalPool
from temperance.studies.schedule import Task

PATIENCE = 60.0  # seconds for what takes a fraction of one where nothing else runs


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[LocalPool]:
    errands = partial(Errands, tmp_path)
    with closing(LocalPool(errands, tmp_path / "stop", workers=2, attempts=3)) as pool:
        yield pool


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_processes_stay_warm(pool: LocalPool) -> None:
    answers = [pool.submit(Task("echo", number, f"{number}")) for number in range(20)]
    found = [answer.result() for answer in answers]
    assert [about for _, _, about in found] == list(range(20))
    processes = {pid for pid, _, _ in found}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    for pid in processes:  # each counts its own
        counts = [count for who, count, _ in found if who == pid]
        assert sorted(counts) == list(range(1, len(counts) + 1))


def test_errors_come_back_with_their_traceback(pool: LocalPool) -> None:
    error = pool.submit(Task("fail", "bad luck", "run")).exception()
    assert isinstance(error, UserError)
    assert str(error) == "here: bad luck. Mend it."
    assert "in fail" in error.__notes__[0]
    error = pool.submit(Task("crash", "bang", "run")).exception()  # cannot be sent as it is
    assert isinstance(error, RuntimeError)
    assert str(error) == "Unportable: bang!"


def test_a_death_is_another_attempt(pool: LocalPool, tmp_path: Path) -> None:
    other = pool.submit(Task("wait", "other", "other"))
    until((tmp_path / "waiting-other").exists)
    assert pool.submit(Task("die", 2, "run")).result() == 3
    tried = (tmp_path / "run").read_text().split()
    assert len(set(tried)) == 3
    assert not other.done()
    pool.stop()
    assert isinstance(other.exception(), Interrupted)
    assert len((tmp_path / "other").read_text().split()) == 1


def test_enough_deaths_are_a_failure(pool: LocalPool) -> None:
    error = pool.submit(Task("die", 9, "run-of-doom")).exception()
    assert isinstance(error, UserError)
    assert str(error) == (
        "run-of-doom: its process died, 3 times: killed, or out of memory."
        " Use fewer executor.workers or smaller batches, then: temperance study retry."
    )
    assert pool.submit(Task("echo", 1, "next")).result()[2] == 1


def test_what_cannot_be_made_is_the_error_of_every_task(tmp_path: Path) -> None:
    with closing(LocalPool(Impossible, tmp_path / "stop", workers=1, attempts=2)) as pool:
        for _ in range(2):
            error = pool.submit(Task("echo", 1, "run")).exception()
            assert isinstance(error, UserError)
            assert error.what == "the data are not there"


def test_stop_reaches_what_runs_and_what_has_not_started(pool: LocalPool, tmp_path: Path) -> None:
    futures = [pool.submit(Task("wait", f"{number}", f"{number}")) for number in range(4)]
    until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2)
    pool.stop()
    assert all(isinstance(future.exception(PATIENCE), Interrupted) for future in futures)


def test_stop_does_not_wait_for_processes_that_start_up(pool: LocalPool, tmp_path: Path) -> None:
    future = pool.submit(Task("sleep", 600.0, "run"))
    until(lambda: bool(pool._processes))
    pool.stop()
    assert isinstance(future.exception(PATIENCE), Interrupted)


def test_close_leaves_no_process(pool: LocalPool, tmp_path: Path) -> None:
    future = pool.submit(Task("sleep", 600.0, "run"))
    until(lambda: (tmp_path / "sleeping").is_file() and (tmp_path / "sleeping").read_text() != "")
    pid = int((tmp_path / "sleeping").read_text())
    assert alive(pid)
    pool.close()
    assert not alive(pid)
    assert isinstance(future.exception(), Interrupted)


def test_processes_leave_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    program = f"from pathlib import Path; import sys; sys.path.insert(0, {str(tests)!r})\n"
    program += f"from reference.errands import drive; drive(Path({str(tmp_path)!r}))"
    driver = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        until(lambda: (tmp_path / "sleeping").is_file() and (tmp_path / "echo").is_file())
        until(lambda: (tmp_path / "sleeping").read_text() != "" and
              (tmp_path / "echo").read_text() != "")  # fmt: skip
        busy, idle = (int((tmp_path / name).read_text()) for name in ("sleeping", "echo"))
        assert busy != idle
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        killed = time.monotonic()
        until(lambda: not alive(busy) and not alive(idle))
        print(f"left {time.monotonic() - killed:.3f} s after the driver")
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


def test_ctrl_c_of_the_terminal_is_the_drivers_alone(pool: LocalPool, tmp_path: Path) -> None:
    future = pool.submit(Task("wait", "1", "run"))
    until(lambda: bool(pool._processes))
    for _ in range(20):  # while it starts up, and then
        for process in pool._processes:
            assert process.process.pid is not None
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(process.process.pid, number)
        time.sleep(0.02)
    until((tmp_path / "waiting-1").exists)
    pool.stop()
    assert isinstance(future.exception(PATIENCE), Interrupted)
    assert len((tmp_path / "run").read_text().split()) == 1


def test_in_process(tmp_path: Path) -> None:
    (tmp_path / STOP).touch()  # left by a driver that was killed
    with executor(ExecutorArgs(), partial(Errands, tmp_path), tmp_path) as found:
        assert isinstance(found, InProcess)
        assert not (tmp_path / STOP).exists()
        assert found.submit(Task("echo", 5, "run")).result() == (os.getpid(), 1, 5)
        assert isinstance(found.submit(Task("fail", "no", "run")).exception(), UserError)


def test_several_workers(tmp_path: Path) -> None:
    args = ExecutorArgs(workers=2)
    with executor(args, partial(Errands, tmp_path), tmp_path) as found:
        assert isinstance(found, LocalPool)
        assert found.slots == 2
        futures = [found.submit(Task("echo", 5, "run")) for _ in range(2)]
        wait(futures)
        found.stop()
        assert (tmp_path / STOP).exists()
    assert not (tmp_path / STOP).exists()
