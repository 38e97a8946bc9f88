"""Errors that are the user's to mend. The command line prints each as one line; in Python they are ValueErrors."""

from __future__ import annotations


class UserError(ValueError):
    """Says what was expected, what was found and what to do, in one line."""


class MissingExtraError(UserError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str):
        super().__init__(f"{what} needs an optional part: pip install 'sewkit[{extra}]'")
