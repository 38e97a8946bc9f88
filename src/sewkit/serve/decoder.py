"""A process that decodes uploads, one after the other: what a hostile file can bring down.

`python -m sewkit.serve.decoder` with the limits as JSON, then on standard input a JSON line for each upload,
{"source", "target"}: paths. The samples are written to the target, raw float32 at 16 kHz. For each a JSON line on
standard output: {"samples": how many}, or {"error", "code"}, as in `decoders.UploadError`. The end of standard input
ends it.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from sewkit.audio import SAMPLE_RATE, AudioError, stream_audio

BLOCK_SECONDS = 2.0


def main() -> None:
    """Until standard input ends."""
    limits = json.loads(sys.argv[1])
    _limit(limits)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not get between the replies
    for line in sys.stdin:
        request = json.loads(line)
        reply = _decode(Path(request["source"]), Path(request["target"]), limits["max_audio_seconds"])
        print(json.dumps(reply), file=replies, flush=True)


def _limit(limits: dict[str, Any]) -> None:
    """Nothing that this process does from here on can take more."""
    whole = int(limits["max_audio_seconds"] * SAMPLE_RATE * 4) + 2**20
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, whole),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))


def _decode(source: Path, target: Path, max_seconds: float) -> dict[str, Any]:
    num_samples = 0
    try:
        with open(target, "wb") as samples:
            for block in stream_audio(source, BLOCK_SECONDS):
                num_samples += len(block)
                if num_samples > max_seconds * SAMPLE_RATE:
                    return {"error": f"the audio lasts longer than {max_seconds:g} s", "code": "audio_too_long"}
                samples.write(block.data)
    except AudioError as error:
        return {"error": error.problem, "code": "invalid_audio"}  # without the name of a file that only we know
    except MemoryError:
        return {"error": "decoding it takes more memory than is allowed", "code": "invalid_audio"}
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"error": "the server has no room for its sound; try again later", "code": "no_room"}
    return {"samples": num_samples}


if __name__ == "__main__":
    main()
