"""What goes wrong with files of models."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from sewkit.errors import UserError


class CheckpointError(UserError):
    """A model could not be read or written; the message is one line: where, what was expected and found, what to do."""


def one_line(error: BaseException, limit: int = 160) -> str:
    """The message of an exception of others on one line; its type where there is none."""
    return textwrap.shorten(str(error), limit, placeholder=" ...") or type(error).__name__


@contextmanager
def blaming(source: object) -> Iterator[None]:
    """Around the reading of settings of others: a value of an unexpected kind is the fault of `source`, not a bug."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: malformed: {one_line(error)}") from error
