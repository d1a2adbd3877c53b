"""A study on a Ray cluster of two nodes, one of which does not live to see the end of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# ruff: noqa: E402 — nothing of it is there without Ray
ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [
    # Ray leaves sockets and log files to the garbage collector, and warns of its own changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

from ray.cluster_utils import Cluster

from reference.errands import Errands
from temperance.config import load_config
from temperance.data import load_dataset
from temperance.errors import Interrupted, UserError
from temperance.run import Run, identity
from temperance.studies.execute import run_study
from temperance.studies.executors import STOP, ExecutorArgs, executor
from temperance.studies.plan import StudyArgs
from temperance.studies.ray_cluster import RayCluster
from temperance.studies.schedule import Task
from temperance.studies.store import list_runs
from temperance.training import Engine

PATIENCE = 120.0
SETTINGS: dict[str, Any] = {
    "split": {"test": 0.7},
    "engine": {"threads": 1},
    "replicates": 2,
    "calibration": {"folds": 2},
    "teacher": {"model": {"name": "mlp", "width": 8}, "training": {"epochs": 60}},
    "student": {"model": {"name": "mlp", "width": 4}, "training": {"epochs": 2}},
    "arms": ["labels", "raw", "calibrated", "constant-T"],
    "softenings": [1.0],
}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # for the errands
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(cluster.address, logging_level="error", log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in one process."""
    folder = tmp_path_factory.mktemp("studies") / "alone"
    carried_out(folder, {"name": "local"})
    return folder


def carried_out(folder: Path, executor: dict[str, Any]) -> None:
    args = load_config(StudyArgs, SETTINGS, (), {"executor": executor})
    dataset, engine = load_dataset(args.data), Engine(args.engine)
    digest = identity(args, data=dataset.fingerprint)
    run = Run.open(folder, verb="study", config=args, identity=digest, resume=True)
    run_study(args, dataset, engine, run, partial(load_dataset, args.data))


def same(folder: Path, other: Path) -> None:
    for name in ("teachers", "students"):
        ours, theirs = (pd.read_parquet(each / f"{name}.parquet") for each in (folder, other))
        ours, theirs = (table.drop(columns="seconds") for table in (ours, theirs))
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    assert [(run.folder, run.state) for run in list_runs(folder)] == [
        (run.folder, "done") for run in list_runs(other)
    ]


def training(folder: Path) -> bool:
    """Whether a run is in the middle of it."""
    return any(
        log.read_text().count("\n") >= 2 and not (log.parent / "result.json").exists()
        for log in folder.glob("runs/*/metrics.jsonl")
    )


def disturbed(folder: Path, disturb: Callable[[], None]) -> dict[Path, int]:
    """Carry the study out, and disturb it once; when the results of before that were written."""
    before: dict[Path, int] = {}

    def disturbing() -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            done = list(folder.glob("runs/*/study.json"))
            if done and training(folder):
                before.update({path: path.stat().st_mtime_ns for path in done})
                disturb()
                return
            time.sleep(0.005)

    disturber = threading.Thread(target=disturbing)
    disturber.start()
    carried_out(folder, {"name": "ray"})
    disturber.join()
    assert before, "nothing was disturbed"
    return before


def processes_of_ray(folder: Path) -> list[int]:
    """Ray's processes that work for us now."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except FileNotFoundError:
            continue
        if b"ray::temperance study" in command:
            found.append(int(entry.name))
    return found


def test_tasks_stay_in_warm_processes_of_both_nodes(two_nodes: Cluster, tmp_path: Path) -> None:
    with executor(ExecutorArgs(name="ray"), partial(Errands, tmp_path), tmp_path) as found:
        assert isinstance(found, RayCluster)
        assert found.slots == 2
        answers = [found.submit(Task("echo", number, f"{number}")) for number in range(12)]
        values = [answer.result(PATIENCE) for answer in answers]
        assert [about for _, _, about in values] == list(range(12))
        assert max(count for _, count, _ in values) > 1
        error = found.submit(Task("fail", "bad luck", "run")).exception(PATIENCE)
        assert isinstance(error, UserError)
        assert str(error) == "here: bad luck. Mend it."
        assert found.submit(Task("die", 2, "dying")).result(PATIENCE) == 3
        waiting = found.submit(Task("wait", "1", "waiting"))
        (tmp_path / "stop").touch()
        assert isinstance(waiting.exception(PATIENCE), Interrupted)
        found.stop()
        assert (tmp_path / STOP).exists()
    assert not list(tmp_path.glob(f"{STOP}*"))
    assert not list(tmp_path.glob(".session*"))
    assert ray.is_initialized(), "a Ray of the user's is left as it is"


def test_a_run_that_dies_too_often(two_nodes: Cluster, tmp_path: Path) -> None:
    args = ExecutorArgs(name="ray", node_retries=1)
    with executor(args, partial(Errands, tmp_path), tmp_path) as found:
        error = found.submit(Task("die", 9, "dying")).exception(PATIENCE)
    assert isinstance(error, UserError)
    assert str(error).startswith("dying: its process or node was lost, 2 times (")


def test_more_than_any_node_has(two_nodes: Cluster, tmp_path: Path) -> None:
    args = ExecutorArgs(name="ray", cpus_per_run=2, gpus_per_run=0.5)
    with (
        pytest.raises(UserError, match=r"no node has 2 CPUs and 0\.5 GPUs for a run"),
        executor(args, partial(Errands, tmp_path), tmp_path),
    ):
        pass


def test_a_worker_that_is_killed(two_nodes: Cluster, alone: Path, tmp_path: Path) -> None:
    def kill() -> None:
        os.kill(processes_of_ray(tmp_path)[0], signal.SIGKILL)

    before = disturbed(tmp_path / "study", kill)
    same(tmp_path / "study", alone)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_node_that_is_lost(two_nodes: Cluster, alone: Path, tmp_path: Path) -> None:
    """The last test: afterwards there is one node."""

    def remove() -> None:
        (node,) = two_nodes.worker_nodes
        two_nodes.remove_node(node, allow_graceful=False)

    before = disturbed(tmp_path / "study", remove)
    same(tmp_path / "study", alone)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_without_a_cluster(address: str, tmp_path: Path) -> None:
    ray.shutdown()
    args = ExecutorArgs(name="ray", address=address)
    with (
        pytest.raises(UserError, match=f"executor.address={address}: no Ray cluster"),
        executor(args, partial(Errands, tmp_path), tmp_path),
    ):
        pass
    assert not ray.is_initialized()
