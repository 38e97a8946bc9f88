"""What goes wrong with files of models."""

from sewkit.errors import UserError


class CheckpointError(UserError):
    """A model could not be read or written; the message is one line: where, what was expected and found, what to do."""
