"""`sewkit serve`: transcription over HTTP and WebSocket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sewkit.cli.options import BUNDLED, Device, Dtype, Threads
from sewkit.errors import MissingExtraError, UserError

MIB = 2**20
KEY_VARIABLE = "SEWKIT_API_KEY"


def serve(
    model: Annotated[
        str, typer.Argument(help="Hub id, folder, original .pt file, or the bundled model's name.")
    ] = BUNDLED,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")] = 8000,
    target_p95_ms: Annotated[
        float, typer.Option(min=1.0, help="The objective: 95 of 100 answers come within this time after the upload.")
    ] = 1000.0,
    compute: Annotated[
        str | None,
        typer.Option(help="Run everything at this operating point; default: the governor chooses.", metavar="POINT"),
    ] = None,
    max_wait_ms: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="Refuse (429) what would wait longer even at the cheapest point; default: 3/4 of the objective.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with a model and a governor of its own.")] = 1,
    device: Device = None,
    dtype: Dtype = "float32",
    runtime: Annotated[str, typer.Option(help="As sewkit.load takes it.")] = "auto",
    threads: Threads = None,
    batch_seconds: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds of audio that share a batch; default: 10, on a GPU 240.")
    ] = None,
    lm: Annotated[
        str | None, typer.Option(help="N-gram language model of words: an ARPA file or a KenLM binary.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; default: the last part of its own name.")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="Another name for it, such as whisper-1; may be given more than once.", metavar="NAME"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the key that clients need; default: the variable {KEY_VARIABLE}, or no key."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Web origin whose pages may call; may be given more than once; default: none."),
    ] = None,
    trusted_proxies: Annotated[
        str | None,
        typer.Option(help="Addresses, with commas, of proxies whose X-Forwarded-For names the client.", metavar="LIST"),
    ] = None,
    max_upload_mb: Annotated[float, typer.Option(min=0.001, help="Largest upload, in MiB.")] = 512.0,
    max_audio_seconds: Annotated[float, typer.Option(min=1.0, help="Longest recording.")] = 4 * 3600.0,
    max_requests: Annotated[int, typer.Option(min=1, help="Transcriptions on their way, uploads and all.")] = 1024,
    max_per_client: Annotated[
        int, typer.Option(min=0, help="Transcriptions on their way of one address; 0 is no limit.")
    ] = 0,
    max_live_sessions: Annotated[int, typer.Option(min=0, help="WebSockets with live sound at a time.")] = 16,
    decode_workers: Annotated[int, typer.Option(min=1, help="Processes that decode uploads.")] = 2,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for uploads on their way; default: the system's for temporary files.")
    ] = None,
    calibration_runs: Annotated[int, typer.Option(min=1, help="Runs of each point, the first time on a device.")] = 3,
) -> None:
    """Serve transcription as OpenAI's API does, with compute that follows the load.

    POST /v1/audio/transcriptions takes what OpenAI's clients send, and compute, latency_budget_ms and hotwords; the
    header x-sewkit-compute of an answer names the operating point that ran. WebSockets: /v1/realtime in OpenAI's form,
    /v1/stream for plain 16-bit samples. Also /v1/models, /v1/state, /health, /ready, /metrics and /openapi.json.

    With a stochastic model a governor chooses the operating point of each batch: the most accurate one at which the
    objective holds. Requests are refused only where not even the cheapest point would do. The device is calibrated at
    the first start, and the times are kept.

    SIGTERM and Ctrl-C: no new requests are taken, those on their way are finished, and the exit status is 0. Logs are
    JSON lines on standard error.

    Example:  sewkit serve runs/mine/model --port 8000 --target-p95-ms 500

    Example:  curl -F file=@call.mp3 -F response_format=srt http://localhost:8000/v1/audio/transcriptions
    """
    settings = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "runtime": runtime,
        "threads": threads,
        "batch_seconds": batch_seconds,
        "lm": lm,
        "name": name,
        "aliases": tuple(alias or ()),
        "target_p95_ms": target_p95_ms,
        "compute": compute,
        "max_wait_ms": max_wait_ms,
        "calibration_runs": calibration_runs,
        "max_upload_bytes": int(max_upload_mb * MIB),
        "max_audio_seconds": max_audio_seconds,
        "max_requests": max_requests,
        "max_per_client": max_per_client,
        "max_live_sessions": max_live_sessions,
        "decode_workers": decode_workers,
        "scratch": None if scratch is None else str(scratch),
        "api_key": _api_key(api_key_file),
        "cors_origins": tuple(cors_origin or ()),
    }
    _run(settings, host, port, workers, trusted_proxies)


def _run(settings: dict[str, Any], host: str, port: int, workers: int, trusted_proxies: str | None) -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError:
        raise MissingExtraError("sewkit serve", "serve") from None
    from sewkit.serve.server import run
    from sewkit.serve.settings import Settings

    run(Settings(**settings), host, port, workers, trusted_proxies)


def _api_key(file: Path | None) -> str | None:
    """Never an argument, which everybody on the machine could read."""
    import os

    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {file}: cannot be read ({error}); expected a file with the key") from None
    if not key:
        raise UserError(f"--api-key-file {file}: is empty; expected a file with the key")
    return key
