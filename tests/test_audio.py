"""Audio input: every container and kind of source gives the same samples, and bad input one clear line."""

import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sewkit import audio, decoding
from sewkit.audio import SAMPLE_RATE, AudioError, load_audio, source_name, stream_audio

av = pytest.importorskip("av")

SECONDS = 1.5


def sine(rate, seconds=SECONDS, frequency=1000.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def encode(samples, rate, **options):
    """The bytes of a file that soundfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    return file.getvalue()


def encode_container(file, format, codec, rate=48_000, seconds=SECONDS, **options):
    """Write a stereo sine with PyAV to `file`, a path or a file object."""
    samples = np.stack([sine(rate, seconds)] * 2).astype(np.float32)
    with av.open(file, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        for start in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def container_bytes(format, codec, **options):
    file = io.BytesIO()
    encode_container(file, format, codec, **options)
    return file.getvalue()


def assert_is_sine(samples, tolerance, seconds=SECONDS):
    """1 kHz, amplitude 0.5, at 16 kHz; the edges, where filters and codecs ring, are left out."""
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    inner = slice(SAMPLE_RATE // 4, round(seconds * SAMPLE_RATE) - SAMPLE_RATE // 4)
    np.testing.assert_allclose(samples[inner], sine(SAMPLE_RATE, seconds)[inner], atol=tolerance)


WAV = encode(sine(SAMPLE_RATE), SAMPLE_RATE, format="WAV", subtype="PCM_16")
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 8 * SAMPLE_RATE)
FLAC = encode(NOISE, SAMPLE_RATE, format="FLAC")


# Formats, rates and channels


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("WAV", "ULAW", 0.03),
        ("FLAC", "PCM_16", 1e-4),
        ("AIFF", "PCM_16", 1e-4),
        ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.03),
        ("MP3", "MPEG_LAYER_III", 0.03),
    ],
)
def test_soundfile_formats(format, subtype, tolerance):
    samples = load_audio(encode(sine(SAMPLE_RATE), SAMPLE_RATE, format=format, subtype=subtype))
    assert len(samples) == round(SECONDS * SAMPLE_RATE)
    assert_is_sine(samples, tolerance)


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "aac"), ("mp4", "flac"), ("mp4", "alac"), ("webm", "libopus"), ("matroska", "pcm_s16le"), ("adts", "aac")],
)
def test_pyav_formats(format, codec):
    samples = load_audio(container_bytes(format, codec))
    if format == "adts":  # has nowhere to note the encoder's delay of 1024 samples
        samples = samples[round(1024 * SAMPLE_RATE / 48_000) :]
        assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)
        return
    assert len(samples) == pytest.approx(SECONDS * SAMPLE_RATE, abs=400)  # codecs may fill up their last frame
    assert_is_sine(samples, 0.03)


def test_m4a_file_by_path(tmp_path):
    path = tmp_path / "call.m4a"
    encode_container(str(path), "ipod", "aac")
    assert_is_sine(load_audio(path), 0.03)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_frequency_amplitude_phase_and_length(rate):
    samples = load_audio(encode(sine(rate), rate, format="WAV", subtype="FLOAT"))
    assert len(samples) == pytest.approx(SECONDS * SAMPLE_RATE, abs=1)
    assert_is_sine(samples, 1e-4)


def test_resampling_leaves_no_alias():
    samples = load_audio(encode(sine(44_100, frequency=10_000), 44_100, format="WAV", subtype="FLOAT"))
    inner = samples[SAMPLE_RATE // 4 : -SAMPLE_RATE // 4]
    assert np.abs(inner).max() < 0.5 * 10 ** (-100 / 20)  # 100 dB below the tone, which lies above 8 kHz


def test_8_bit_8_khz_stereo_wav():
    stereo = np.stack([sine(8_000), np.zeros(12_000)], axis=1)
    samples = load_audio(encode(stereo, 8_000, format="WAV", subtype="PCM_U8"))
    assert len(samples) == round(SECONDS * SAMPLE_RATE)
    assert_is_sine(2 * samples, 0.03)  # the mean of the channels


def test_channels_are_averaged():
    channels = np.random.default_rng(0).uniform(-1, 1, (5000, 5)).astype(np.float32)
    samples = load_audio(encode(channels, SAMPLE_RATE, format="WAV", subtype="FLOAT"))
    np.testing.assert_allclose(samples, channels.mean(axis=1), atol=1e-7)


# Sources


@pytest.fixture
def wav_path(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(WAV)
    return path


def test_every_kind_of_source_gives_the_same_samples(wav_path):
    expected = load_audio(wav_path)
    half_read = io.BytesIO(WAV)
    half_read.seek(1000)
    for source in (str(wav_path), WAV, bytearray(WAV), io.BytesIO(WAV), half_read):
        np.testing.assert_array_equal(load_audio(source), expected)
    assert not half_read.closed
    with wav_path.open("rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        np.testing.assert_array_equal(load_audio(file), expected)
        spooled.write(WAV)
        np.testing.assert_array_equal(load_audio(spooled), expected)


@pytest.mark.parametrize("spool_bytes", [1000, 2**20], ids=["to disk", "in memory"])
@pytest.mark.parametrize("content", [WAV, container_bytes("mp4", "aac")], ids=["wav", "mp4"])
def test_a_pipe_gives_the_same_samples(content, spool_bytes, monkeypatch):
    monkeypatch.setattr(decoding, "SPOOL_BYTES", spool_bytes)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reader, os.fdopen(write_end, "wb") as writer:

        def feed():
            writer.write(content)
            writer.close()

        thread = threading.Thread(target=feed)
        thread.start()
        samples = load_audio(reader)
        thread.join()
    np.testing.assert_array_equal(samples, load_audio(content))


def test_an_object_with_nothing_but_read_is_enough():
    class Download:
        def __init__(self):
            self.read = io.BytesIO(WAV).read

    np.testing.assert_array_equal(load_audio(Download()), load_audio(WAV))


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [("int8", 128, 0), ("int16", 32768, 0), ("int32", 2**31, 0), ("uint8", 128, 128), ("float64", 1, 0)],
)
def test_arrays_are_scaled_by_the_range_of_their_type(dtype, scale, offset):
    array = (sine(SAMPLE_RATE) * scale + offset).astype(dtype)
    before = array.copy()
    samples = load_audio(array)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, (before.astype(np.float64) - offset) / scale, atol=1e-7)
    np.testing.assert_array_equal(array, before)


def test_float32_arrays_pass_unchanged_and_are_not_shared():
    array = sine(SAMPLE_RATE, seconds=25).astype(np.float32)[::2]
    (first, *_) = stream_audio(array)
    np.testing.assert_array_equal(load_audio(array), array)
    assert not np.shares_memory(first, array)


def test_source_names(wav_path):
    with wav_path.open("rb") as file, tempfile.TemporaryFile() as unnamed:
        assert [source_name(source) for source in (wav_path, str(wav_path), file)] == [str(wav_path)] * 3
        assert source_name(unnamed) == "<file>"
    assert source_name(WAV) == "<bytes>"
    assert source_name(np.zeros(3)) == "<array>"


# Blocks


@pytest.mark.parametrize(
    "source",
    [
        encode(NOISE, 44_100, format="WAV"),
        encode(NOISE, 8_000, format="FLAC"),
        encode(NOISE, 22_050, format="MP3"),
        encode(NOISE, 48_000, format="OGG", subtype="OPUS"),
        container_bytes("webm", "libopus"),
        NOISE,
    ],
    ids=["wav", "flac", "mp3", "opus", "webm", "array"],
)
def test_stream_equals_whole_bit_for_bit(source):
    whole = load_audio(source)
    for block_seconds in (0.0125, 0.7, 1.0, 1e6):
        blocks = list(stream_audio(source, block_seconds))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
        block_samples = round(block_seconds * SAMPLE_RATE)
        assert all(len(block) == block_samples for block in blocks[:-1])
        assert 0 < len(blocks[-1]) <= block_samples


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 50))
def test_blocks_do_not_depend_on_the_pieces_they_come_from(sizes, block_samples):
    signal = np.arange(sum(sizes), dtype=np.float32)
    pieces = np.split(signal, np.cumsum(sizes)[:-1]) if sizes else []
    if not sum(sizes):
        with pytest.raises(AudioError, match="holds no samples"):
            list(audio._reblock(pieces, block_samples, "x"))
        return
    blocks = list(audio._reblock(pieces, block_samples, "x"))
    assert [len(block) for block in blocks[:-1]] == [block_samples] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks), signal)


def test_the_first_block_does_not_wait_for_the_last():
    blocks = stream_audio(FLAC[: -len(FLAC) // 8], block_seconds=1.0)
    assert len(next(blocks)) == SAMPLE_RATE  # although the file turns out to be cut off after 7 s
    with pytest.raises(AudioError, match="can be decoded only to"):
        list(blocks)


def test_block_seconds_must_be_positive():
    with pytest.raises(ValueError, match="block_seconds must be positive, got 0"):
        stream_audio(WAV, block_seconds=0)


def test_reading_mp3_says_nothing_on_stderr(capfd, monkeypatch):
    monkeypatch.setattr(decoding, "DECODE_VALUES", 1234)
    load_audio(encode(sine(SAMPLE_RATE, 8, frequency=300) + 0.02 * NOISE, SAMPLE_RATE, format="MP3"))
    assert capfd.readouterr().err == ""


# Lengths that headers get wrong


def with_bytes(content, start, replacement):
    return content[:start] + replacement + content[start + len(replacement) :]


def test_wav_written_to_a_pipe_announces_no_length():
    piped = with_bytes(with_bytes(WAV, 4, b"\xff" * 4), 40, b"\xff" * 4)
    np.testing.assert_array_equal(load_audio(piped), load_audio(WAV))


def test_flac_written_to_a_pipe_announces_no_length():
    piped = with_bytes(with_bytes(FLAC, 21, bytes([FLAC[21] & 0xF0])), 22, bytes(4))
    np.testing.assert_array_equal(load_audio(piped), load_audio(FLAC))
    with pytest.raises(AudioError, match=r"can be decoded only to [34]\.\d s; download or encode it again"):
        load_audio(piped[: len(piped) // 2])


@pytest.fixture(scope="module")
def vbr_mp3():
    """16 s of mp3 with a varying bit rate, and the same without its length header."""
    signal = np.concatenate([0.001 * NOISE, NOISE])
    tagged = encode(signal, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    second_frame = tagged.index(tagged[:2], 4)
    return tagged, tagged[second_frame:]


def test_mp3_without_a_length_header_is_read_to_its_end(vbr_mp3):
    tagged, untagged = vbr_mp3
    assert len(load_audio(tagged)) == 16 * SAMPLE_RATE
    assert len(load_audio(untagged)) == pytest.approx(16 * SAMPLE_RATE, abs=2400)  # padding is not marked
    with_picture = b"ID3\x04\0\0\0\0\x10\0" + bytes(2048)
    assert len(load_audio(with_picture + tagged)) == 16 * SAMPLE_RATE
    np.testing.assert_array_equal(load_audio(with_picture + untagged), load_audio(untagged))


def test_mp3_that_needs_pyav_says_so_without_it(vbr_mp3, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AudioError, match=r"needs PyAV: pip install 'sewkit\[audio\]'$"):
        load_audio(vbr_mp3[1])


def test_two_mp3_files_in_one_are_refused(vbr_mp3):
    with pytest.raises(AudioError, match=r"it goes on after the 16\.0 s its header announces; encode it again$"):
        load_audio(vbr_mp3[0] * 2)


# Bad input: one line with the name, the problem and the remedy


def refusal(source):
    with pytest.raises(AudioError) as caught:
        load_audio(source)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert caught.value.source == source_name(source)
    return message.removeprefix(f"{caught.value.source}: ")


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "none.wav") == "no such file; check the path"


def test_folder(tmp_path):
    assert refusal(tmp_path) == "this is a folder; name the audio files in it"


def test_unreadable_file(wav_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert refusal(wav_path) == "no permission to read it; change its mode or owner"


def test_path_that_cannot_exist():
    assert refusal("a\0b.wav") == "it cannot be opened (embedded null byte); check the path"


def test_empty_file(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    assert refusal(path) == "the file is empty (0 bytes); record or download it again"
    assert refusal(b"") == "the file is empty (0 bytes); record or download it again"


def test_text_named_wav(tmp_path):
    path = tmp_path / "note.wav"
    path.write_text("Bonjour, ça va ?\n" * 100, encoding="utf-8")
    assert refusal(path) == "this is text, not audio; check how the file was made"


@pytest.mark.parametrize("name", ["noise.bin", "noise.raw"])
def test_unknown_format(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "it cannot be read as audio" in refusal(path)
    assert "convert it to wav, flac, ogg or mp3" in refusal(path)


def test_playlist_in_disguise_is_not_followed(wav_path, tmp_path):
    path = tmp_path / "list.mp4"
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{wav_path}\n")
    assert "this is text" in refusal(path)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
def test_truncated_flac(part):
    cut = FLAC[: int(part * len(FLAC))]
    seconds = float(refusal(cut).split("only to ")[1].split(" s of the 8.0 s its header announces")[0])
    assert seconds == pytest.approx(8 * part, abs=0.4)  # one flac frame is a quarter of a second here
    assert refusal(cut).endswith("; download or encode it again")


def test_flac_cut_inside_its_header():
    assert "it cannot be read as audio" in refusal(FLAC[:30])


@pytest.mark.parametrize(
    "content",
    [
        encode(NOISE, SAMPLE_RATE, format="WAV"),
        encode(NOISE, SAMPLE_RATE, format="AIFF"),
        encode(NOISE, SAMPLE_RATE, format="MP3"),
        container_bytes("webm", "libopus", seconds=8),
    ],
    ids=["wav", "aiff", "mp3", "webm"],
)
def test_other_truncated_files(content):
    message = refusal(content[: len(content) // 2])
    assert message.startswith("the file can be decoded only to ")
    assert message.endswith(" s of the 8.0 s its header announces; download or encode it again")


def test_truncated_m4a(tmp_path):
    path = tmp_path / "call.m4a"
    encode_container(str(path), "mp4", "aac", seconds=8, movflags="faststart")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "s of the 8.0 s its header announces" in refusal(path)
    encode_container(str(path), "mp4", "aac")  # with its index at the end
    path.write_bytes(path.read_bytes()[:-2000])
    assert "it cannot be decoded" in refusal(path)


@pytest.mark.parametrize("source", [encode(np.zeros(0), SAMPLE_RATE, format="WAV"), np.zeros(0)], ids=["wav", "array"])
def test_zero_samples(source):
    assert refusal(source) == "the audio holds no samples; record or export it again"


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_samples_that_are_no_numbers_are_placed(value, text):
    stereo = np.stack([sine(44_100, 20)] * 2, axis=1)
    stereo[round(12.345 * 44_100) :, 1] = value
    message = f"the sample at 12.345 s is {text}; export the audio again without it"
    assert refusal(encode(stereo, 44_100, format="WAV", subtype="FLOAT")) == message


def test_non_finite_arrays():
    array = np.zeros(SAMPLE_RATE)
    array[8_000] = 1e300  # beyond float32
    assert refusal(array) == "the sample at 0.500 s is inf; export the audio again without it"


@pytest.mark.parametrize("rate", [0, 1, 2**31 - 1, 2**32 - 1])
def test_absurd_sample_rates(rate):
    assert "; " in refusal(with_bytes(WAV, 24, rate.to_bytes(4, "little")))


def test_two_dimensional_arrays():
    message = refusal(np.zeros((2, 100)))
    assert message.startswith("an array of shape (2, 100); expected (num_samples,), mono at 16000 Hz")


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_arrays_of_other_types(dtype):
    assert f"samples of type {dtype}; expected float32" in refusal(np.zeros(10, dtype))


def test_text_file_objects():
    assert refusal(io.StringIO("abc")) == "this file object is open as text; open it with mode 'rb'"


def test_other_objects_are_a_type_error():
    with pytest.raises(TypeError, match="not list"):
        load_audio([0.0, 0.1])


def test_video_without_sound(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        container.mux(stream.encode(None))
    assert refusal(path) == "it has no audio track; name a file with sound"


def test_damaged_containers():
    for head in (b"\0\0\0\x1cftypisom", b"\x1a\x45\xdf\xa3"):
        assert "it cannot be decoded" in refusal(head + bytes(200))
    assert refusal(b"\xff\xf1" + bytes(200)) == "the audio holds no samples; record or export it again"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(container_bytes("mp4", "aac"), "mp4 or m4a"), (container_bytes("webm", "libopus"), "webm or mkv")],
    ids=["mp4", "webm"],
)
def test_missing_pyav_is_named_with_its_command(content, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert refusal(content) == f"{kind} audio needs PyAV: pip install 'sewkit[audio]'"


def test_errors_survive_being_sent_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(AudioError("call.wav", "no such file")))
    assert (error.source, str(error)) == ("call.wav", "call.wav: no such file")


def test_importing_loads_no_decoder():
    code = "import sys, sewkit.audio; print([m for m in ('soundfile', 'soxr', 'av', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_memory_does_not_grow_with_length(tmp_path):
    import tracemalloc

    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8_000, 1, subtype="PCM_U8") as file:
        for _ in range(10):
            file.write(np.zeros(60 * 8_000))
    tracemalloc.start()
    num_samples = sum(len(block) for block in stream_audio(path, block_seconds=1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_samples == 600 * SAMPLE_RATE
    assert peak < 8e6  # bytes; whole, these ten minutes are 38 MB
