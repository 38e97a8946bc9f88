"""Find the words of the bundled model in read sentences: training words of 219 more speakers.

Sentences are aligned with their texts by PocketSphinx (pip install pocketsphinx; its English model comes with it), and
a manifest names each digit and command in them as a segment of its recording; nothing is copied. Recordings of the test
splits are never touched, sentences with a word that its dictionary lacks are left out.

    python recipes/bundled/cut_words.py --output data/cut-words/manifest.jsonl \
        data/speech/{librispeech-excerpt,librispeech-test-clean,speechocean762}/manifest.jsonl
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from make_voices import COMMANDS, DIGITS
from pocketsphinx import Decoder
from tqdm import tqdm

from sewkit.audio import SAMPLE_RATE
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.files import replacing

FRAMES_PER_SECOND = 100
MARGIN = 0.02
"""Kept at both sides of a word, seconds."""
SHORTEST, LONGEST = 0.12, 1.0
"""Seconds of a word: what is not between them was not found."""
INTENTS = {word.upper(): intent for intent, words in (("digit", DIGITS), ("command", COMMANDS)) for word in words}


@cache
def aligner() -> Decoder:
    """One for each process."""
    return Decoder(lm=None, loglevel="FATAL")


def segments(utterance: Utterance) -> list[tuple[str, float, float]]:
    """Each wanted word of a sentence with start and length in seconds; none where the text does not fit the sound."""
    decoder, words = aligner(), utterance.text.lower().split()
    if not all(decoder.lookup_word(word) for word in words):
        return []
    samples = load_utterance(utterance)
    decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw((samples * 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    found = []
    for segment in decoder.seg() or ():
        word = segment.word.split("(")[0].upper()  # "(2)" names a pronunciation
        start, end = segment.start_frame / FRAMES_PER_SECOND, (segment.end_frame + 1) / FRAMES_PER_SECOND
        if word in INTENTS and SHORTEST <= end - start <= LONGEST:
            start, end = max(0.0, start - MARGIN), min(len(samples) / SAMPLE_RATE, end + MARGIN)
            found.append((word, round(start, 3), round(end - start, 3)))
    return found


def rows(folder: Path, utterance: Utterance) -> list[dict]:
    """The manifest's rows for one sentence."""
    (part,) = utterance.parts
    audio, speaker = os.path.relpath(part.audio, folder), f"{part.audio.parents[2].name}-{utterance.speaker}"
    return [
        {
            "audio": audio,
            "start": part.start + start,
            "duration": duration,
            "text": word,
            "speaker": speaker,
            "split": "train",
            "intent": INTENTS[word],
        }
        for word, start, duration in segments(utterance)
    ]


def sentences(manifest: Path) -> Iterator[Utterance]:
    """Those of no test split that have a wanted word."""
    for utterance in read_manifest(manifest):
        if utterance.split != "test" and INTENTS.keys() & utterance.text.upper().split():
            yield utterance


def main() -> None:
    """Write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    utterances = [utterance for manifest in args.manifests for utterance in sentences(manifest)]
    with ProcessPoolExecutor() as pool, replacing(args.output) as draft:
        found = pool.map(partial(rows, args.output.parent), utterances, chunksize=16)
        cut = [row for each in tqdm(found, total=len(utterances), unit="sentence") for row in each]
        draft.write_text("".join(json.dumps(row) + "\n" for row in cut))
    counts = Counter(row["text"] for row in cut)
    print(f"{len(cut)} words of {len({row['speaker'] for row in cut})} speakers in {args.output}: {dict(counts)}")


if __name__ == "__main__":
    main()
