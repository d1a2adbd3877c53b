"""What the settings of every target transform say about it."""

from __future__ import annotations

from typing import ClassVar

from temperance.config import Args


class TransformSettings(Args):
    """Settings of a target transform."""

    needs_targets: ClassVar[bool] = False
    """Whether it has to know the label."""

    replaces_teacher: ClassVar[bool] = False
    """Whether nothing is left of what the teacher said."""

    @property
    def compares_rows(self) -> bool:
        """Whether a row's target depends on the rest of its batch."""
        return False
