"""Other layouts of speech data as rows of the native manifest.

An importer is a generator: a file or folder -> a row (a dict) for every utterance, with `audio` as a path and what the
layout says of it, or a `Problem` for an entry that cannot be one. `write_manifest` finds out durations, checks that
every file opens, and writes the manifest; no audio is copied.
"""

from sewkit.data.importers.common import Problem
from sewkit.data.importers.formats import FORMATS, detect_format, import_rows
from sewkit.data.importers.writing import ImportReport, write_manifest

__all__ = ["FORMATS", "ImportReport", "Problem", "detect_format", "import_rows", "write_manifest"]
