"""What comes back from another process: a value, or the error that it met there."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """Of a function that was called in another process."""

    value: Any = None
    error: Exception | None = None
    trace: str = ""
    """Of the error, as its own process saw it."""

    @classmethod
    def of(cls, function: Callable[..., Any], *arguments: Any) -> Answer:
        """Call a function and keep whichever way it ends."""
        try:
            return cls(function(*arguments))
        except Exception as error:  # whatever a run fails of is recorded, not raised
            return cls(None, _portable(error), traceback.format_exc())

    def open(self) -> Any:
        """The value.

        Raises:
            Exception: the error, if it is one; its traceback stands in a note.
        """
        if self.error is not None:
            self.error.add_note(self.trace)
            raise self.error
        return self.value


def _portable(error: Exception) -> Exception:
    """The error, or if it cannot be sent, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its class decides what pickling it raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
