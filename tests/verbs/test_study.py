"""A study through the command line, at its smallest: every arm, two recipes of teachers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from temperance.studies.arms import ARMS

RECIPE: dict[str, Any] = {
    "data": {"name": "digits", "subset": 400},
    "split": {"test": 0.6},
    "teacher": {
        "name": "t",
        "model": {"name": "mlp", "width": 16},
        "training": {
            "epochs": 60,  # long enough to be over-confident
            "validate_every": 60,
            "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
        },
    },
    "pool": {"factors": {"objective.label_smoothing": [0.0, 0.2]}},
    "student": {
        "model": {"name": "mlp", "width": 4},
        "training": {"epochs": 1, "optimizer": {"name": "adamw", "lr": 0.01}},
    },
    "arms": [arm for arm in ARMS if arm != "bayes"],
    "underconfidence": [0.5, 2.0],
    "softenings": [1.0, 2.0],
    "grid": [0.5, 1.0, 2.0, 4.0, 8.0],
    "replicates": 1,
    "calibration": {"folds": 2},
    "primary": {"arm": "calibrated", "against": "raw"},
    "secondary": [{"arm": "calibrated", "against": "constant-T", "softening": 2.0}],
    "engine": {"threads": 1},
}
QUICK = {**RECIPE["teacher"], "training": {**RECIPE["teacher"]["training"], "epochs": 3,
                                           "validate_every": 3}}  # fmt: skip
# Arms of one softening: each once, but two factors and five softenings of the grid.
TAUGHT = len(RECIPE["arms"]) - 2 - 2 + 2 + 5
TEACHERS = 2
STUDENTS = 2 + TEACHERS * 2 * TAUGHT


def written_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory, succeeds: Callable[..., Any]
) -> tuple[Path, str]:
    """A finished study and what it printed; nobody may write into it."""
    folder = tmp_path_factory.mktemp("study")
    done = succeeds("study", written_recipe(folder), "--out", folder / "run")
    return folder / "run", done.out


@pytest.fixture
def copy(study: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(study[0], tmp_path / "run"))


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{name}.parquet")


def without_times(folder: Path, name: str) -> pd.DataFrame:
    return table(folder, name).drop(columns="seconds")


def test_every_arm_has_its_students(study: tuple[Path, str]) -> None:
    folder, _ = study
    students, teachers = table(folder, "students"), table(folder, "teachers")
    assert len(teachers) == TEACHERS
    missing = table(folder, "missing")
    # A teacher of T below 1 cannot be mixed with uniform up to its lower entropy.
    sharp = teachers.loc[teachers["T"] <= 1, "teacher"]
    assert len(missing) == 2 * len(sharp)
    assert set(missing["state"]) <= {"skipped"}
    assert len(students) == STUDENTS - len(missing)
    assert set(students["arm"]) == set(RECIPE["arms"])
    assert not students["accuracy"].isna().any()
    csv = pd.read_csv(folder / "students.csv")
    assert len(csv) == len(students)
    metrics = json.loads((folder / "metrics.json").read_text())
    labels = [contrast["label"] for contrast in metrics["contrasts"]]
    assert table(folder, "contrasts")["comparison"].tolist() == labels


def test_temperatures_are_what_the_arms_say(study: tuple[Path, str]) -> None:
    students = table(study[0], "students")
    fitted = table(study[0], "teachers").set_index("teacher")["T"]
    constant = float(fitted.prod() ** (1 / len(fitted)))
    taught = students[students["teacher"].notna()]
    for row in taught.itertuples():
        own = fitted[row.teacher]
        if row.arm == "permuted-T":
            assert row.T in set(fitted.drop(row.teacher))
            continue
        if row.arm == "label-smoothing":
            assert pd.isna(row.T)
            continue
        expected = {
            "calibrated": own,
            "under-confident": own * (row.factor or 1),
            "constant-T": constant,
            "shuffled-entropy": own,
            "equal-entropy": own,
            "grid": row.teacher_softening / row.softening,
        }.get(row.arm, 1.0)
        assert pytest.approx(expected) == row.T, row.arm
    permuted = taught[taught["arm"] == "permuted-T"]
    assert permuted.groupby("teacher")["T"].nunique().eq(1).all()


def test_what_is_the_same_is_trained_once(study: tuple[Path, str]) -> None:
    """raw at τ is the grid's τ, and with a cross-fit also raw+calibration."""
    students = table(study[0], "students")
    runs = students.set_index(["teacher", "arm", "softening", "teacher_softening"])["run"]
    for teacher in table(study[0], "teachers")["teacher"]:
        for tau in (1.0, 2.0):
            raw = runs[teacher, "raw", tau, tau]
            assert raw == runs[teacher, "grid", tau, tau]
            assert raw == runs[teacher, "raw+calibration", tau, tau]
    folders = [path for path in (study[0] / "runs").iterdir() if path.is_dir()]
    trained = students["run"].nunique() + TEACHERS * (1 + 2 + 1)  # teachers, folds, measurements
    assert len(folders) == trained


def test_arms_that_should_differ_do(study: tuple[Path, str]) -> None:
    students = table(study[0], "students")
    one = students[(students["teacher"] == "r0-t-label_smoothing0.0") & (students.softening == 2)]
    nll = one[one["arm"] != "grid"].groupby("arm")["nll"].first()
    distinct = [arm for arm in nll.index if arm != "raw+calibration"]
    assert nll[distinct].nunique() == len(distinct)


def test_the_terminal_says_what_the_numbers_say(study: tuple[Path, str]) -> None:
    folder, out = study
    metrics = json.loads((folder / "metrics.json").read_text())
    said = " ".join(out.split())
    for sentence in metrics["sentences"]:
        assert " ".join(sentence.split()) in said
    assert metrics["contrasts"][0]["standing"] == "primary"
    assert metrics["contrasts"][1]["standing"] == "secondary"
    assert metrics["contrasts"][1]["way"][1] == 2.0
    primary = json.loads((folder / "primary.json").read_text())
    assert primary["primary"]["against"] == "raw"
    assert primary["registered"] < metrics["contrasts"][0]["label"] or len(primary["sha256"]) == 64


def test_contrasts_are_paired_means(study: tuple[Path, str]) -> None:
    folder, _ = study
    students = table(folder, "students")
    contrast = json.loads((folder / "metrics.json").read_text())["contrasts"][0]
    chosen = students[students["softening"] == 1.0].set_index("teacher")
    expected = 100 * (
        chosen.loc[chosen["arm"] == "calibrated", "accuracy"]
        - chosen.loc[chosen["arm"] == "raw", "accuracy"]
    )
    assert sorted(contrast["differences"]) == pytest.approx(sorted(expected))


def test_resuming_a_finished_study_runs_nothing(
    copy: Path, succeeds: Callable[..., Any], study: tuple[Path, str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/study.json")}
    succeeds("study", "--resume", "--out", copy)
    assert {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/study.json")} == before
    for name in ("students", "teachers"):
        pd.testing.assert_frame_equal(table(copy, name), table(study[0], name))


def test_a_study_grows_by_what_is_new(copy: Path, succeeds: Callable[..., Any]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/study.json")}
    succeeds("study", "student_seeds=2", "arms=[raw,calibrated,constant-T]", "--resume",
             "--out", copy)  # fmt: skip
    after = {path: path.stat().st_mtime_ns for path in copy.glob("runs/*/study.json")}
    assert {path: after[path] for path in before} == before
    students = table(copy, "students")
    assert set(students["seed"]) == {0, 1}
    assert len(after) - len(before) == TEACHERS * 2 * 3  # the second seed of three arms


def test_registered_comparisons_cannot_be_changed(
    copy: Path, temperance: Callable[..., Any]
) -> None:
    done = temperance("study", "primary.against=constant-T", "--resume", "--out", copy)
    assert done.code == 2
    assert "primary" in done.err
    assert "was 'raw', is 'constant-T'" in done.err or "registered" in done.err


def test_the_report_is_written_again_from_the_folder(
    copy: Path, succeeds: Callable[..., Any], study: tuple[Path, str]
) -> None:
    shutil.rmtree(copy / "runs")  # tables and numbers are enough
    (copy / "report.html").unlink()
    succeeds("report", copy)
    assert (copy / "report.html").read_bytes() == (study[0] / "report.html").read_bytes()


def test_the_report_opens_quietly(study: tuple[Path, str], browse: Callable[..., Any]) -> None:
    file = study[0] / "report.html"
    page = browse(file)
    assert page.console_errors == []
    assert {url for url in page.requests if not url.startswith("data:")} == {file.as_uri()}
    for heading in (
        *("Ladder of verdicts", "Alignment of best softening and T", "Under-confidence"),
        *("All students", "Cost", "How it was done"),
    ):
        assert heading in page.text


def test_status_says_how_far_it_is(study: tuple[Path, str], succeeds: Callable[..., Any]) -> None:
    done = succeeds("study", "status", study[0])
    counts = json.loads((study[0] / "status.json").read_text())
    assert done.out.startswith(f"{counts['done']}/{counts['total']} done")
    assert "go on with" not in done.out


def test_dry_run_writes_nothing(
    tmp_path: Path, succeeds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = succeeds("study", written_recipe(tmp_path), "--dry-run")
    assert "students" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_two_students_out_of_fold_unlabelled_and_a_fraction(
    tmp_path: Path, succeeds: Callable[..., Any]
) -> None:
    recipe = written_recipe(
        tmp_path,
        split={"test": 0.6, "labelled": 0.6},
        teacher=QUICK,
        arms=["labels", "raw", "calibrated", "shuffled-entropy"],
        students={"factors": {"model.width": [4, 6]}},
        transfer=["in-sample", "out-of-fold", "unlabelled"],
        softenings=[2.0],
        one_in=2,
        secondary=[],
    )
    succeeds("study", recipe, "--out", tmp_path / "run")
    students = table(tmp_path / "run", "students")
    taught = students[students["teacher"].notna()]
    assert len(taught) == TEACHERS * 6 / 2 * 3
    assert taught.groupby("teacher").size().eq(3 * 3).all()
    cells = taught.groupby(["student", "transfer"]).size()
    assert cells.eq(TEACHERS / 2 * 3).all()  # every cell has half of the teachers
    rows = taught.groupby("transfer")["train_rows"].unique().map(list)
    assert rows["in-sample"] == rows["out-of-fold"] != rows["unlabelled"]


def test_snapshots_are_teachers_of_one_family(tmp_path: Path, succeeds: Callable[..., Any]) -> None:
    recipe = written_recipe(
        tmp_path,
        pool={},
        teacher={**QUICK, "training": {**QUICK["training"], "snapshots": [1, 2]}},
        replicates=2,
        arms=["raw", "permuted-T"],
        transfer=["in-sample", "out-of-fold"],
        softenings=[1.0],
        primary=None,
        secondary=[],
    )  # fmt: skip
    succeeds("study", recipe, "--out", tmp_path / "run")
    teachers = table(tmp_path / "run", "teachers")
    assert teachers["teacher"].tolist() == [
        f"r{r}-t{at}" for r in (0, 1) for at in ("@1", "@2", "")
    ]
    assert teachers.groupby("family").size().tolist() == [3, 3]
    assert teachers["sha256"].nunique() == 6
    assert "Across teachers" in (tmp_path / "run" / "report.html").read_text()  # from three on
    families = teachers.set_index("T")["family"]
    students = table(tmp_path / "run", "students")
    raw = students[students["arm"] == "raw"]
    assert raw["nll"].nunique() == 2 * 6  # each state has fold teachers of its own epoch
    permuted = students[students["arm"] == "permuted-T"]
    assert (families[permuted["T"]].to_numpy() != permuted["family"].to_numpy()).all()


def test_everything_failed(tmp_path: Path, temperance: Callable[..., Any]) -> None:
    """A learning rate beyond all bounds leaves no teacher, so no student: and that is said."""
    teacher = {**QUICK, "training": {**QUICK["training"], "optimizer": {"name": "sgd", "lr": 1e30}}}
    recipe = written_recipe(tmp_path, teacher=teacher, arms=["raw", "calibrated"], secondary=[])
    done = temperance("study", recipe, "--out", tmp_path / "run")
    assert done.code == 1
    assert "No student was trained." in done.out
    assert "runs failed: temperance study status" in done.err
    assert "Traceback" not in done.err
    assert (tmp_path / "run" / "report.html").is_file()
    missing = table(tmp_path / "run", "missing")
    assert set(missing["state"]) == {"failed", "blocked"}


IMPOSSIBLE = [
    ({"replicates": 1, "pool": {}, "arms": ["raw", "permuted-T"]}, "temperature of another"),
    ({"arms": ["raw", "bayes"]}, "known truth"),
    ({"transfer": ["unlabelled"]}, "split.labelled"),
    ({"transfer": ["out-of-fold"], "calibration": {"fit": "held-out"}}, "cross-fit"),
    ({"objectives": ["lskd"], "arms": ["raw", "shuffled-entropy"]}, "shuffled-entropy"),
    ({"objectives": ["fitnet"], "arms": ["raw", "weight-matched"]}, "weight-matched"),
    ({"engine": {"devices": 2}}, "one device"),
    ({"primary": {"arm": "calibrated", "against": "rwa"}}, "rwa"),
    ({"arms": ["raw", "constant-T"]}, "no arm 'calibrated'"),
    ({"pool": {"factors": {"training.epoch": [1]}}}, "epochs"),
    ({"pool": {"variants": [{"name": "x"}, {"name": "x"}]}}, "'x'"),
    ({"calibration": {"calibrator": "vector"}}, "temperature"),
    ({"teacher": {"weights": "nowhere"}}, "given"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "named"), IMPOSSIBLE, ids=[named for _, named in IMPOSSIBLE])
def test_impossible_combinations_are_named_before_anything_runs(
    changes: dict[str, Any], named: str, tmp_path: Path, temperance: Callable[..., Any]
) -> None:
    done = temperance("study", written_recipe(tmp_path, **changes), "--out", tmp_path / "run")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert named in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()
