"""Everything that a server is told when it starts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr

MIB = 2**20


class Settings(BaseModel):
    """What `sewkit serve` is given, see there. Raises pydantic's ValidationError for values out of range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "sew-words"
    """As in `sewkit.load`, like the next five."""
    device: str | None = None
    dtype: str = "float32"
    runtime: str = "auto"
    threads: int | None = Field(None, ge=1)
    lm: str | None = None
    name: str | None = None
    """Under which clients know the model; by default the last part of `model`."""
    aliases: tuple[str, ...] = ()
    """Other names by which clients may ask for it."""

    target_p95_ms: float = Field(1000.0, gt=0)
    """The objective: within it 95 of 100 recordings of up to a chunk have their answer, from the end of the upload."""
    compute: str | None = None
    """Run everything at this point; None lets the governor choose."""
    max_wait_ms: float | None = Field(None, gt=0)
    """A request that would wait longer for its turn, all before it at the cheapest point, is refused; by default three
    quarters of the objective: what is taken in is answered in time, and the others are told at once."""
    batch_seconds: float | None = Field(None, gt=0)
    """Sound that shares a batch; by default as `sewkit.load` decides for the device."""
    calibration_runs: int = Field(3, ge=1)

    max_upload_bytes: int = Field(512 * MIB, ge=1)
    max_audio_seconds: float = Field(4 * 3600.0, gt=0)
    max_requests: int = Field(1024, ge=1)
    """Requests for transcription on their way, uploads and all."""
    max_per_client: int = Field(0, ge=0)
    """Of one address; 0 is no limit. The same for its live sessions."""
    max_live_sessions: int = Field(16, ge=0)
    """WebSockets with live sound."""
    live_idle_seconds: float = Field(30.0, gt=0)
    """Without a message on one of them."""
    header_seconds: float = Field(10.0, gt=0)
    """For a client to send the head of a request."""
    idle_seconds: float = Field(20.0, gt=0)
    """Without a byte of an upload."""
    upload_bytes_per_second: float = Field(4096.0, gt=0)
    """Slower uploads are cut off, once they are `idle_seconds` behind: speech comes at about this rate when live."""
    upload_seconds: float = Field(900.0, gt=0)
    """For a whole upload."""

    decode_workers: int = Field(2, ge=1)
    decode_seconds: float = Field(120.0, gt=0)
    """For decoding one upload."""
    decode_memory_bytes: int = Field(1024 * MIB, ge=64 * MIB)
    """Address space of a decoder."""
    scratch: str | None = None
    """Folder for uploads on their way; by default the system's for temporary files."""

    api_key: SecretStr | None = None
    cors_origins: tuple[str, ...] = ()

    @property
    def target(self) -> float:
        """The objective in seconds."""
        return self.target_p95_ms / 1e3

    @property
    def max_wait(self) -> float:
        """In seconds."""
        return 0.75 * self.target if self.max_wait_ms is None else self.max_wait_ms / 1e3
