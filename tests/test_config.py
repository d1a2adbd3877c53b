from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import PositiveFloat

from temperance.config import Args, commented_yaml, load_config, merge, one_of, to_yaml
from temperance.errors import UserError


class Circle(Args):
    name: Literal["circle"] = "circle"
    radius: PositiveFloat = 1.0
    """In metres."""


class Square(Args):
    name: Literal["square"] = "square"
    side: PositiveFloat = 2.0


class Drawing(Args):
    title: str
    """What it is called."""
    shape: one_of(Circle, Square) = Circle()  # type: ignore[valid-type]
    folder: Path | None = None


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "drawing.yaml"
    file.write_text("title: from file\nshape: {name: square, side: 3}\n")
    loaded = load_config(Drawing, file, ["shape.side=4"], {"title": "from Python"})
    assert loaded == Drawing(title="from Python", shape=Square(side=4))


def test_a_bare_name_stands_for_its_defaults() -> None:
    assert load_config(Drawing, {"title": "t"}, ["shape=square"]).shape == Square()
    assert load_config(
        Drawing, {"title": "t", "shape": "square"}, ["shape.side=5"]
    ).shape == Square(side=5)


@pytest.mark.parametrize("text", ["1e-3", "0.001", ".001", "1.0e-3"])
def test_numbers_as_people_write_them(text: str) -> None:
    loaded = load_config(Drawing, {"title": "t"}, [f"shape.radius={text}"])
    assert loaded.shape.radius == 0.001


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["titel=x"], ["unknown key 'titel'", "Did you mean 'title'"]),
        (["title=x", "shape.radus=1"], ["unknown key 'radus' in 'shape'", "'radius'"]),
        (["title=x", "shape=sqare"], ["there is no 'sqare'", "Did you mean 'square'"]),
        (["title=x", "shape.radius=-1"], ["shape.radius", "greater than 0", "-1"]),
        (["title=x", "shape.radius=wide"], ["shape.radius", "number", "'wide'"]),
        ([], ["'title' is required", "title=VALUE"]),
        (["title"], ["'title' is neither a YAML file nor an override", "key.sub=value"]),
        (["title=x", "shape=square", "shape.radius=1"], ["unknown key 'radius'", "side"]),
    ],
)
def test_errors_name_the_key_and_the_mend(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Drawing, None, overrides)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"a: [", "not valid YAML"), (b"- 1", "no mapping"), (b"\xff\xfe\x00", "not a text file")],
)
def test_damaged_yaml(tmp_path: Path, content: bytes, word: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=word):
        load_config(Drawing, file)


def test_missing_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(Drawing, tmp_path / "none.yaml")


def test_yaml_executes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text("title: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(Drawing, file)


def test_resolved_yaml_loads_again() -> None:
    drawing = Drawing(title="ü: 1", shape=Square(side=1.5), folder=Path("a/b"))
    assert load_config(Drawing, yaml.safe_load(to_yaml(drawing))) == drawing


def test_commented_yaml_is_the_defaults_with_their_documentation() -> None:
    text = commented_yaml(Drawing)
    assert "# In metres." in text
    assert "required. What it is called." in text
    values = yaml.safe_load(text)
    assert values["shape"] == {"name": "circle", "radius": 1.0}
    assert load_config(Drawing, values, ["title=t"]) == Drawing(title="t")


def test_merge_replaces_what_is_no_mapping() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}
    assert merge({"a": {"b": 1}}, {"a": 5}) == {"a": 5}
