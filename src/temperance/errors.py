"""Errors that a user can mend."""

from __future__ import annotations

from functools import partial
from typing import Any


class UserError(ValueError):
    """Something that the user can put right: what is wrong, where, and how to mend it.

    The command line prints it as one message without a traceback and exits with 2. It is a
    `ValueError`, so library users catch what they would expect.

    Args:
        what: what is wrong, without a full stop at the end.
        where: the file, config key or argument that it is about.
        mend: what to do about it, as an imperative sentence without a full stop.

    Examples:
        >>> str(UserError("no such file", where="teacher.weights", mend="Check the path"))
        'teacher.weights: no such file. Check the path.'
    """

    def __init__(self, what: str, *, where: object = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        place = f"{where}: " if where is not None else ""
        sentences = [place + what, mend or ""]
        super().__init__(" ".join(s if s.endswith("?") else f"{s}." for s in sentences if s))

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled, on its way from another process, by its message alone.
        return partial(type(self), where=self.where, mend=self.mend), (self.what,)


class Interrupted(Exception):
    """A run stopped on request (Ctrl-C, SIGTERM) at a step boundary, with a checkpoint written."""
