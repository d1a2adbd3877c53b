from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temperance.config import load_config
from temperance.errors import UserError
from temperance.run import Run
from temperance.studies.plan import StudyArgs
from temperance.studies.registration import ContrastArgs, PrimaryArgs, register

PRIMARY = PrimaryArgs(arm="calibrated", against="raw")
SECONDARY = (ContrastArgs(arm="calibrated", against="constant-T", softening=2.0),)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def kept(run: Run) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / "primary.json").read_text())
    return content


def test_the_hash_is_that_of_the_blocks(run: Run) -> None:
    digest = register(run, PRIMARY, SECONDARY)
    content = kept(run)
    assert content["sha256"] == digest
    blocks = {name: content[name] for name in ("primary", "secondary")}
    assert hashlib.sha256(json.dumps(blocks, sort_keys=True).encode()).hexdigest() == digest
    assert content["registered"].endswith("+00:00")
    assert load_config(PrimaryArgs, content["primary"]) == PRIMARY
    assert [load_config(ContrastArgs, block) for block in content["secondary"]] == list(SECONDARY)


def test_a_hash_of_yesterday_holds_today(run: Run) -> None:
    """Whoever changes these makes every registered study refuse to go on."""
    assert register(run, PRIMARY, SECONDARY) == (
        "d73c8e2bf257ea2a2a56b9f6cec82d476fb8cfdcebcecb8862172cce565f89b8"
    )


def test_registering_again_changes_nothing(run: Run) -> None:
    digest = register(run, PRIMARY, SECONDARY)
    before = (run.folder / "primary.json").read_bytes()
    assert register(run, PrimaryArgs(), SECONDARY) == digest  # the same by default
    assert (run.folder / "primary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("primary", "secondary"),
    [
        (None, SECONDARY),
        (PrimaryArgs(against="constant-T"), SECONDARY),
        (PrimaryArgs(endpoint="nll"), SECONDARY),
        (PrimaryArgs(direction="two-sided"), SECONDARY),
        (PrimaryArgs(analysis="alignment"), SECONDARY),
        (PRIMARY, ()),
        (PRIMARY, (*SECONDARY, *SECONDARY)),
        (PRIMARY, (SECONDARY[0].model_copy(update={"softening": 4.0}),)),
    ],
)
def test_others_are_refused_and_the_first_stay(
    primary: PrimaryArgs | None, secondary: tuple[ContrastArgs, ...], run: Run
) -> None:
    register(run, PRIMARY, SECONDARY)
    before = (run.folder / "primary.json").read_bytes()
    with pytest.raises(UserError, match="registered before the first student") as refused:
        register(run, primary, secondary)
    assert "primary.json" in str(refused.value)
    assert kept(run)["registered"] in str(refused.value)
    assert (run.folder / "primary.json").read_bytes() == before


def test_adding_to_nothing_is_refused_too(run: Run) -> None:
    """What was not decided on before the first student cannot be afterwards."""
    register(run, None, ())
    with pytest.raises(UserError):
        register(run, PRIMARY, ())


@given(
    arm=st.sampled_from(["calibrated", "symmetric"]),
    softening=st.none() | st.floats(0.1, 16),
    endpoint=st.sampled_from(["accuracy", "nll", "brier"]),
    direction=st.sampled_from(["greater", "less", "two-sided"]),
)
def test_every_block_comes_back_as_it_was(
    arm: str, softening: float | None, endpoint: str, direction: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    block = load_config(
        PrimaryArgs,
        {"arm": arm, "softening": softening, "endpoint": endpoint, "direction": direction},
    )
    run = Run(tmp_path_factory.mktemp("registered"))
    digest = register(run, block, ())
    assert register(run, load_config(PrimaryArgs, kept(run)["primary"]), ()) == digest


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (PRIMARY, "calibrated − raw: accuracy > 0"),
        (SECONDARY[0], "calibrated − constant-T (τ = 2): accuracy > 0"),
        (
            ContrastArgs(arm="raw", against="labels", endpoint="nll", direction="less",
                         objective="kd", student="s", transfer="unlabelled"),
            "raw − labels (kd, s, unlabelled): nll < 0",
        ),
        (PrimaryArgs(direction="two-sided"), "calibrated − raw: accuracy ≠ 0"),
        (ContrastArgs(arm="under-confident", against="raw", factor=2.0),
         "under-confident − raw (2 × T): accuracy > 0"),
        (PrimaryArgs(analysis="alignment"),
         "slope of log best teacher softening on log fitted T > 0"),
    ],
)  # fmt: skip
def test_blocks_in_words(block: ContrastArgs, said: str) -> None:
    assert str(block) == said


BASE: dict[str, Any] = {
    "arms": ["raw", "calibrated", "under-confident", "labels", "grid"],
    "softenings": [1.0, 4.0],
    "underconfidence": [2.0],
    "objectives": ["kd", "lskd"],
}


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"against": "permuted-T"}, "no arm 'permuted-T'"),
        ({"arm": "raw", "against": "raw"}, "'raw' is compared with itself"),
        ({"objective": "lskt"}, "no 'lskt'. Did you mean 'lskd'?"),
        ({"student": "studnet"}, "no 'studnet'. Did you mean 'student'?"),
        ({"softening": 2.0}, "no softening 2.0. Known: 1.0, 4.0"),
        ({"transfer": "out-of-fold"}, "no transfer out-of-fold. Known: in-sample"),
        ({"arm": "under-confident", "factor": 3.0}, "no factor 3.0. Known: 2.0"),
        ({"objective": "lskd"}, "objective 'lskd' has no arm 'calibrated'"),
        ({"arm": "grid"}, "'grid' is no arm to compare"),
    ],
)
@pytest.mark.parametrize("where", ["primary", "secondary"])
def test_what_would_never_be_compared_is_named_beforehand(
    where: str, block: dict[str, Any], words: str
) -> None:
    full = {"arm": "calibrated", "against": "raw"} | block
    with pytest.raises(UserError) as refused:
        load_config(StudyArgs, BASE | {where: full if where == "primary" else [full]})
    assert words in str(refused.value)


def test_the_alignment_test_needs_its_grid() -> None:
    alignment = {"primary": {"analysis": "alignment"}}
    load_config(StudyArgs, BASE | alignment)
    with pytest.raises(UserError, match="needs the arm 'grid'"):
        load_config(StudyArgs, BASE | {"arms": ["raw", "calibrated"]} | alignment)
