"""Reading torch files without running what is in them.

torch.load(weights_only=True) builds tensors and plain containers and refuses every other global. Files of fairseq name
two more classes; both become an inert `Record` here, their code is never imported.
"""

from __future__ import annotations

import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch

from sewkit.checkpoint.errors import CheckpointError

_ONE_AT_A_TIME = threading.Lock()
"""torch keeps the classes it accepts for the whole process: one thread's end must not take them from another."""


class Record:
    """Attributes of an object whose class is not ours to run."""


# torch finds an accepted class by its module and name, so the stand-ins bear those of the originals.
_STAND_INS: list[Any] = [
    type("Namespace", (Record,), {"__module__": "argparse"}),  # options, before fairseq kept them in dicts
    type("Dictionary", (Record,), {"__module__": "fairseq.data.dictionary"}),  # the letters of a fine-tuned model
]


def load_torch_file(path: Path) -> Any:
    """What torch.save wrote, tensors on the CPU; objects of the two known classes come as `Record`.

    Tensors of a zip file are mapped, not read: originals are two thirds optimiser state, which then costs nothing.
    Raises CheckpointError for a file that holds other code or is damaged.
    """
    try:
        with _ONE_AT_A_TIME, torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # A damaged or hostile pickle can fail anywhere in the unpickler, with any exception.
    except Exception as error:
        raise CheckpointError(f"{path}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"refused: it wants to run {refused[1]}; a checkpoint holds tensors, numbers and text only"
    # Around the reason torch advises to load the file without restrictions.
    reason = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(reason.split())[:160] or type(error).__name__
    return f"not a readable PyTorch file, truncated or of another kind ({reason}); download it again"
