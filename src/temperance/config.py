"""Configs: pydantic models from YAML and `key.sub=value`, with errors that name the nearest key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from temperance.errors import UserError

Entry = TypeVar("Entry")
Plugin = TypeVar("Plugin")
SomeArgs = TypeVar("SomeArgs", bound="Args")


class Args(BaseModel):
    """Base of all settings: immutable, unknown keys refused, docstrings are the documentation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    without_effect: ClassVar[frozenset[str]] = frozenset()
    """Settings that cannot change a result (devices, threads), so not part of a run's identity."""


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """A sentence that names the nearest option, or all of them.

    Examples:
        >>> did_you_mean("softning", ["softening", "weight"])
        "Did you mean 'softening'?"
        >>> did_you_mean("x", ["softening", "weight"])
        'Known: softening, weight'
    """
    names = sorted(options)
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(names)}"


def look_up(kind: str, name: str, entries: Mapping[str, Entry]) -> Entry:
    """The entry called `name`, or an error that names the nearest one.

    Raises:
        UserError: if there is no such entry.
    """
    if name not in entries:
        raise UserError(f"there is no {kind} '{name}'", mend=did_you_mean(name, entries))
    return entries[name]


def plugged_in(group: str, base: type[Plugin]) -> list[type[Plugin]]:
    """Classes that installed packages add to a list, by entry points of the group `temperance.…`.

    Args:
        group: `objectives` or `calibrators`.
        base: what they have to be.

    Raises:
        UserError: if one cannot be loaded, or is no `base`.
    """
    found = []
    for point in sorted(entry_points(group=f"temperance.{group}"), key=lambda point: point.name):
        where = f"entry point '{point.name}' of temperance.{group}"
        try:
            plugin = point.load()
        except Exception as error:  # whatever another package does at import
            raise UserError(
                f"cannot be loaded ({type(error).__name__}: {error})",
                where=where,
                mend="Update or uninstall the package that brings it",
            ) from error
        if not (isinstance(plugin, type) and issubclass(plugin, base)):
            raise UserError(
                f"is no {base.__name__}",
                where=where,
                mend="Update or uninstall the package that brings it",
            )
        found.append(plugin)
    return found


def by_name(kind: str, entries: Iterable[type[Plugin]]) -> dict[str, type[Plugin]]:
    """The classes by their `name`.

    Raises:
        UserError: if two have the same.
    """
    named: dict[str, type[Plugin]] = {}
    for entry in entries:
        name: str = entry.name  # type: ignore[attr-defined]
        if name in named:
            raise UserError(
                f"there are two: {named[name].__module__} and {entry.__module__}",
                where=f"{kind} '{name}'",
                mend="Uninstall the package that brings one of them",
            )
        named[name] = entry
    return named


def one_of(*choices: type[Args], expand: Any = None) -> Any:
    """The type of a field that holds one of several `Args`, told apart by their `name`.

    A bare string stands for the choice of that name with its defaults.

    Args:
        expand: optional function from a name to the mapping that it abbreviates.
    """

    def from_name(value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if expand and isinstance(value, Mapping) and isinstance(value.get("name"), str):
            value = {**value, **expand(value["name"])}
        return value

    if len(choices) == 1:
        return Annotated[choices[0], BeforeValidator(from_name)]
    return Annotated[
        Union[choices],  # noqa: UP007 - a union over a runtime tuple
        Discriminator("name"),
        BeforeValidator(from_name),
    ]


def load_config(
    cls: type[SomeArgs],
    source: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> SomeArgs:
    """Settings from a YAML file or mapping, then `key.sub=value` strings, then Python values.

    Raises:
        UserError: for a missing or malformed file, an unknown key or a value that does not fit.
    """
    where = source if isinstance(source, str | Path) else None
    given = source if isinstance(source, Mapping) else read_yaml(where) if where else {}
    merged = merge(_nested_defaults(cls), given)
    for override in overrides:
        merged = merge(merged, parse_override(override))
    merged = _without_blanks(merge(merged, values or {}))
    try:
        return cls.model_validate(merged)
    except ValidationError as error:
        problems = [_explain(problem, cls) for problem in error.errors()]
        what = "; ".join(dict.fromkeys(problems))
        raise UserError(what, where=where) from None


def _without_blanks(content: Mapping[str, Any]) -> dict[str, Any]:
    """Without the `???` that `commented_yaml` puts where a value has to be filled in."""
    return {
        key: _without_blanks(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
        if value != "???"
    }


def paths_of(args: Args) -> list[Path]:
    """Every path in the settings: what a run reads."""
    values = [getattr(args, name) for name in type(args).model_fields]
    nested = [path for value in values if isinstance(value, Args) for path in paths_of(value)]
    return [value for value in values if isinstance(value, Path)] + nested


def _nested_defaults(cls: type[Args]) -> dict[str, Any]:
    """The defaults that are settings themselves: giving one key of them leaves the others."""
    defaults = {name: field.get_default() for name, field in cls.model_fields.items()}
    return {name: args.model_dump() for name, args in defaults.items() if isinstance(args, Args)}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file (safe loader: no code is executed).

    Raises:
        UserError: if the file is missing, not YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=path) from None
    except UnicodeDecodeError:
        raise UserError("is not a text file", where=path, mend="Give a YAML file") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"is not valid YAML: {' '.join(str(error).split())}", where=path) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError("holds no mapping of keys to values", where=path)
    return content


def parse_override(text: str) -> dict[str, Any]:
    """A nested mapping from `key.sub=value`, the value read as YAML.

    Examples:
        >>> parse_override("optimizer.lr=0.1")
        {'optimizer': {'lr': 0.1}}

    Raises:
        UserError: if it is not of that form.
    """
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UserError(
            f"'{text}' is neither a YAML file nor an override",
            mend="Write overrides as key.sub=value, without spaces",
        )
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"the value '{value}' is not valid YAML", where=key) from None
    if isinstance(nested, str):
        nested = _number(nested)
    for part in reversed(parts):
        nested = {part: nested}
    return nested  # type: ignore[no-any-return]


def _number(text: str) -> str | float:
    """YAML 1.1 reads 1e-3 as a string (it wants 1.0e-3); people mean a number."""
    try:
        return float(text)
    except ValueError:
        return text


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, mapping by mapping; any other value replaces the one below.

    So does a mapping with another `name`: the settings of one choice mean nothing to the next.

    Examples:
        >>> merge({"a": {"name": "x", "b": 1}, "c": 2}, {"a": {"b": 3}})
        {'a': {'name': 'x', 'b': 3}, 'c': 2}
        >>> merge({"a": {"name": "x", "b": 1}}, {"a": {"name": "y"}})
        {'a': {'name': 'y'}}
    """
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, str):
            below = {"name": below}
        if not (isinstance(value, Mapping) and isinstance(below, Mapping)):
            merged[key] = value
        elif value.get("name", below.get("name")) == below.get("name"):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _explain(problem: ErrorDetails, cls: type[Args]) -> str:
    """One problem that pydantic found, for someone who has never heard of pydantic."""
    names, holder, inside = _walk(problem["loc"], cls)
    key = ".".join(names)
    match problem["type"]:
        case "extra_forbidden":
            known = holder.model_fields if holder else {}
            place = f" in '{'.'.join(names[:-1])}'" if names[:-1] else ""
            return f"unknown key '{names[-1]}'{place}. {did_you_mean(names[-1], known)}"
        case "union_tag_invalid":
            context = problem["ctx"]
            options = [tag.strip("' ") for tag in context["expected_tags"].split(",")]
            return f"{key}: there is no '{context['tag']}'. {did_you_mean(context['tag'], options)}"
        case "union_tag_not_found":
            return f"{key}: needs a name"
        case "missing":
            fields = inside.model_fields if inside else {}
            needed = [name for name, field in fields.items() if field.is_required()]
            key = ".".join([key, *needed[:1]])
            return f"'{key}' is required. Set it in the YAML or as {key}=VALUE"
        case "value_error":
            message = str(problem["ctx"]["error"]).rstrip(".")
            return f"{key}: {message}" if key else message
    return f"{key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _walk(
    loc: tuple[int | str, ...], cls: type[Args]
) -> tuple[list[str], type[Args] | None, type[Args] | None]:
    """The keys as the user wrote them, without the union tags that pydantic puts between them.

    Also the class that has the last key, and the class that is its value; None where there is none.
    """
    names: list[str] = []
    holder: type[Args] | None = None
    inside: type[Args] | None = cls
    choices: dict[str, type[Args]] = {}
    for part in loc:
        if part in choices:
            inside, choices = choices[str(part)], {}
            continue
        names.append(str(part))
        holder, inside, choices = inside, None, {}
        field = holder.model_fields.get(str(part)) if holder else None
        found = _args_classes(field) if field else []
        if len(found) == 1:
            inside = found[0]
        else:
            choices = {str(choice.model_fields["name"].default): choice for choice in found}
    return names, holder, inside


def _args_classes(field: FieldInfo) -> list[type[Args]]:
    """The `Args` classes that a field's type mentions."""

    def search(annotation: Any) -> list[type[Args]]:
        if isinstance(annotation, type) and issubclass(annotation, Args):
            return [annotation]
        if get_origin(annotation) is None:
            return []
        return [found for argument in get_args(annotation) for found in search(argument)]

    return search(field.annotation)


def commented_yaml(cls: type[Args], *, indent: int = 0) -> str:
    """Every key of `cls` with its default and its documentation, as YAML to start from."""
    pad = "  " * indent
    lines = []
    for name, field in cls.model_fields.items():
        comment = " ".join((field.description or "").split())
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            nested = [] if get_origin(field.annotation) is tuple else _args_classes(field)
            lines.append(f"{pad}{name}:{'' if nested else ' ???'}  # required. {comment}".rstrip())
            if nested:
                lines.append(commented_yaml(nested[0], indent=indent + 1).rstrip())
        elif isinstance(default, Args) and isinstance(default.model_dump(), dict):
            lines.append(f"{pad}{name}:" + (f"  # {comment}" if comment else ""))
            lines.append(_commented_instance(default, indent=indent + 1).rstrip())
        else:
            lines.append(f"{pad}{name}: {_scalar(default)}" + (f"  # {comment}" if comment else ""))
    return "\n".join(lines) + "\n"


def _commented_instance(args: Args, *, indent: int) -> str:
    """`commented_yaml` with the values of an instance in place of its class's defaults."""
    pad = "  " * indent
    lines = []
    for name, field in type(args).model_fields.items():
        value = getattr(args, name)
        comment = " ".join((field.description or "").split())
        tail = f"  # {comment}" if comment else ""
        if isinstance(value, Args) and isinstance(value.model_dump(), dict):
            lines += [f"{pad}{name}:{tail}", _commented_instance(value, indent=indent + 1).rstrip()]
        else:
            lines.append(f"{pad}{name}: {_scalar(value)}{tail}")
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(
        _plain(value), default_flow_style=True, allow_unicode=True, sort_keys=False, width=1000
    )
    return text.replace("\n...", "").strip()


def _plain(value: Any) -> Any:
    """The value as YAML knows it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Args):
        return value.model_dump(mode="json")
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def to_yaml(args: Args) -> str:
    """The fully resolved settings, as they are stored beside a run."""
    return yaml.safe_dump(args.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
