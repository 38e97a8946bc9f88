"""What verbs that give transcripts share: text on standard output, or JSON, or files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sewkit.cli.options import print_json
from sewkit.cli.sources import output_formats, unique_stems
from sewkit.files import expect_folder

if TYPE_CHECKING:
    from sewkit.subtitles import SubtitleStyle
    from sewkit.transcript import Transcript


class Output:
    """Where the transcripts of some recordings go. Raises UserError for an unknown format or an unusable folder."""

    subtitles: SubtitleStyle | None = None
    """The limits of srt and vtt, if others than the usual ones."""

    def __init__(self, formats: list[str] | None, folder: Path | None, as_json: bool, default_format: str):
        self.formats = output_formats(formats or ([default_format] if folder else []))
        self.folder = folder or Path()
        if self.formats:
            expect_folder(self.folder)
        self.as_json = as_json

    def expect(self, paths: list[str]) -> None:
        """Name the recordings that will come, so that their files' names differ."""
        self.stems = unique_stems(paths)

    def give(self, transcript: Transcript, shown: str) -> None:
        """One transcript; `shown` is what people read of it on standard output, unless files are written."""
        if self.as_json:
            print_json({"source": transcript.source, **transcript.to_dict()})
        elif not self.formats:
            name = "" if len(self.stems) == 1 else f"{transcript.source}: "
            typer.echo("\n".join(f"{name}{line}" for line in shown.splitlines() or [""]))
        if self.formats:
            self._write(transcript)

    def _write(self, transcript: Transcript) -> None:
        from sewkit.transcript import write_transcript

        stem = self.stems.get(transcript.source, "stdin")
        for path in write_transcript(transcript, self.folder, self.formats, stem=stem, subtitles=self.subtitles):
            print(f"wrote {path}", file=sys.stderr)
