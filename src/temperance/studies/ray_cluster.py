"""The runs of a study on a Ray cluster: tasks that Ray starts again if their node is lost."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temperance.errors import UserError
from temperance.studies.answers import Answer
from temperance.studies.schedule import Perform, Task

if TYPE_CHECKING:
    from temperance.studies.executors import ExecutorArgs

CAPACITY_SECONDS = 5.0  # between two questions how much the cluster can take
KNOCK_SECONDS = 10.0  # an address gets to answer
CHECK_SECONDS = 60.0  # a node gets to say whether it sees the study's folder

try:
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise UserError(
        "needs Ray", where="executor 'ray'", mend="Run: pip install 'temperance[ray]'"
    ) from None


@contextmanager
def cluster(
    args: ExecutorArgs, make: Callable[[], Perform], folder: Path, stop: Path
) -> Iterator[RayCluster]:
    """A cluster that is there, or one on this machine for the study alone.

    A Ray that was initialised before is used, and left as it is.

    Args:
        make: makes what carries tasks out, once in every process; it can be pickled.
        folder: of the study.
        stop: file that asks all processes to stop at their next step.

    Raises:
        UserError: if the cluster cannot be reached, has no node that could take a run, or has one
            that does not see the folder.
    """
    ours = not ray.is_initialized()
    if ours:
        _connect(args.address)
    session = folder / f".session-{uuid.uuid4().hex}"
    session.touch()
    try:
        _check_nodes(session.resolve())
        ray_cluster = RayCluster(args, make, session.resolve(), stop)
        try:
            yield ray_cluster
        finally:
            ray_cluster.cancel()
    finally:
        session.unlink(missing_ok=True)
        if ours:
            ray.shutdown()


class RayCluster:
    """Every run is a task of Ray's; what carries it out stays in the process for the next one.

    Args:
        make: makes what carries tasks out.
        session: file whose absence says that a node does not share the folder.
        stop: file that asks all processes to stop at their next step.
    """

    def __init__(
        self, args: ExecutorArgs, make: Callable[[], Perform], session: Path, stop: Path
    ) -> None:
        self.args = args
        self._session, self._stop = session, stop
        self._made = ray.cloudpickle.dumps(make)  # type: ignore[no-untyped-call]
        self._remote = ray.remote(_perform).options(
            name="temperance study",
            num_cpus=args.cpus_per_run,
            num_gpus=args.gpus_per_run,
            max_retries=args.node_retries,  # of what a lost node or process took with it
            retry_exceptions=False,
        )
        self._running: set[Any] = set()
        self._capacity, self._asked = 0, -math.inf
        if not self._can_take():
            raise UserError(
                f"no node has {args.cpus_per_run} CPUs and {args.gpus_per_run:g} GPUs for a run",
                where="executor",
                mend="Lower executor.cpus_per_run or executor.gpus_per_run",
            )

    @property
    def slots(self) -> int:
        """How many runs the nodes that are alive can take at a time."""
        return max(1, self._can_take())

    def submit(self, task: Task) -> Future[Any]:
        """Start the task wherever there is room."""
        answer: Future[Any] = Future()
        reference = self._remote.remote(str(self._session), self._made, task)
        self._running.add(reference)

        def ended(future: Future[Answer]) -> None:
            self._running.discard(reference)
            try:
                answer.set_result(future.result().open())
            except RayError as error:
                answer.set_exception(self._lost(task, error))
            except Exception as error:  # of the run
                answer.set_exception(error)

        reference.future().add_done_callback(ended)
        return answer

    def stop(self) -> None:
        """Ask the processes to stop at their next step."""
        self._stop.touch()

    def cancel(self) -> None:
        """Kill what still runs."""
        for reference in list(self._running):
            ray.cancel(reference, force=True)

    def _lost(self, task: Task, error: RayError) -> UserError:
        times = 1 + self.args.node_retries
        return UserError(
            f"its process or node was lost, {times} times ({type(error).__name__})",
            where=task.folder,
            mend="Look after the cluster, then: temperance study retry",
        )

    def _can_take(self) -> int:
        now = time.monotonic()
        if now - self._asked >= CAPACITY_SECONDS:
            self._asked = now
            self._capacity = sum(_room(node["Resources"], self.args) for node in _alive())
        return self._capacity


def _connect(address: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own handler would end the driver where ours stops it at the next step.
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address or "local")
        ray.init(
            address or "local",  # null would join a cluster that happens to run here
            include_dashboard=None if address else False,
            logging_level=logging.WARNING,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster could be reached ({' '.join(str(error).split())})",
            where=f"executor.address={address}",
            mend="Check the address, or leave it out to start a cluster on this machine",
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)


def _knock(address: str) -> None:
    """Whether anybody is at HOST:PORT; Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "//" not in host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _room(resources: dict[str, float], args: ExecutorArgs) -> int:
    """How many runs a node can take."""
    room = resources.get("CPU", 0.0) // args.cpus_per_run
    if args.gpus_per_run:
        room = min(room, resources.get("GPU", 0.0) // args.gpus_per_run)
    return int(room)


def _check_nodes(session: Path) -> None:
    """Ask every node whether it sees the file that this process wrote."""
    check = ray.remote(_sees)
    answers = {}
    for node in _alive():
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = check.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        answers[remote.remote(str(session))] = node["NodeManagerHostname"]
    for answer, name in answers.items():
        try:
            seen = ray.get(answer, timeout=CHECK_SECONDS)
        except RayError as error:
            raise UserError(
                f"node {name} does not answer ({type(error).__name__})", where="executor.address"
            ) from None
        if not seen:
            raise _unseen(session, name)


def _sees(session: str) -> bool:
    return Path(session).is_file()


def _unseen(session: Path, node: str) -> UserError:
    return UserError(
        f"node {node} does not see it",
        where=session.parent,
        mend="Put --out into a folder that all nodes share under one path",
    )


_here: tuple[str, Perform] | None = None  # of the last session that this process worked for


def _perform(session: str, made: bytes, task: Task) -> Answer:
    """Carry a task out in a process of Ray's, which may have done so before."""
    global _here
    if _here is None or _here[0] != session:
        if not _sees(session):  # a node that joined later
            return Answer(error=_unseen(Path(session), socket.gethostname()))
        making = Answer.of(lambda: ray.cloudpickle.loads(made)())
        if making.error is not None:
            return making
        _here = (session, making.value)
    return Answer.of(_here[1], task)
