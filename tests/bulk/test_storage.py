"""Object stores: the same job with an S3 prefix in and out, over a connection that is cut in mid-transfer."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from toy_archive import rows_of

from sewkit.bulk import storage
from sewkit.bulk.listing import find_recordings
from sewkit.bulk.storage import Folder, Unreachable, opened, patiently
from sewkit.errors import UserError

Run = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)


class CuttingProxy:
    """Passes bytes on to a server, and cuts a connection on which so many came back. Only `cuts` times."""

    def __init__(self, port: int, after: int, cuts: int):
        self.cuts_left, self._port, self._after = cuts, port, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            num_back = 0
            while True:
                for one in select.select([client, server], [], [])[0]:
                    try:
                        data = one.recv(4096)
                        if not data:
                            return
                        (server if one is client else client).sendall(data)
                    except OSError:
                        return
                    num_back += len(data) if one is server else 0
                    if num_back > self._after and self.cuts_left > 0:
                        self.cuts_left -= 1
                        return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of an S3-compatible server on loopback with an empty bucket `calls`."""
    import boto3
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "toy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "toy")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="calls")
    yield port
    server.stop()


def through(proxy_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have s3fs use this port from now on."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy_port}")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_s3_in_and_out_with_a_connection_cut_in_mid_transfer_gives_what_local_folders_give(
    run: Run, archive: Path, tmp_path: Path, s3: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    through(s3, monkeypatch)
    store = Folder("s3://calls/in")
    for path in sorted(archive.rglob("*.wav")):
        store.write(str(path.relative_to(archive)), path.read_bytes())
    proxy = CuttingProxy(s3, after=10_000, cuts=2)
    through(proxy.port, monkeypatch)
    report = run(input="s3://calls/in", output="s3://calls/out")
    assert proxy.cuts_left == 0
    assert not report["errors"]
    assert report["done"] == 12
    local, remote = rows_of(tmp_path / "out"), rows_of("s3://calls/out")
    assert remote == local
    assert run(input="s3://calls/in", output="s3://calls/out")["done_before"] == 12
    proxy.close()


def test_http_is_read_like_a_folder(run: Run, archive: Path, tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = sorted(str(path.relative_to(archive)) for path in archive.rglob("*.wav"))
    manifest = tmp_path / "calls.csv"
    root = f"http://127.0.0.1:{server.server_address[1]}"
    manifest.write_text("audio\n" + "".join(f"{root}/{name}\n" for name in [*names, "gone.wav"]))
    try:
        report = run(input=str(manifest), output=str(tmp_path / "http"))
        listed = [entry.name for entry in find_recordings(root).entries]
    finally:
        server.shutdown()
        server.server_close()
    assert report["errors"] == {"missing": 1}
    assert listed == names
    run()
    rows = rows_of(tmp_path / "http")
    assert {name: rows[f"{root}/{name}"]["text"] for name in names} == {
        name: row["text"] for name, row in rows_of(tmp_path / "out").items()
    }


def test_a_break_is_mended_by_another_attempt_and_many_breaks_are_said() -> None:
    calls = []

    def breaks(times: int) -> str:
        calls.append(1)
        if len(calls) <= times:
            raise ConnectionResetError("cut")
        return "whole"

    assert patiently(lambda: breaks(2), "x") == "whole"
    calls.clear()
    with pytest.raises(Unreachable, match="not after 5 attempts"):
        patiently(lambda: breaks(99), "x")
    assert len(calls) == 5


def test_what_another_attempt_cannot_mend_is_raised_at_once() -> None:
    calls = []

    def missing() -> None:
        calls.append(1)
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        patiently(missing, "x")
    assert len(calls) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fewer_bytes_than_the_listing_says_are_a_break_not_a_short_recording() -> None:
    folder = Folder("memory://short")
    folder.write("a.wav", b"12345")
    with opened("memory://short/a.wav", size=5) as file:
        assert file.read() == b"12345"
    with pytest.raises(Unreachable, match="5 bytes came of 9"), opened("memory://short/a.wav", size=9):
        pass


def test_a_large_file_that_is_cut_short_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class CutOnce:
        calls = 0

        def get_file(self, path: str, target: str) -> None:
            self.calls += 1
            Path(target).write_bytes(bytes(9 if self.calls > 1 else 5))

    store = CutOnce()
    monkeypatch.setattr(storage, "SPOOL_BYTES", 4)
    monkeypatch.setattr(storage, "file_system", lambda location: (store, location))
    with opened("s3://calls/a.wav", size=9) as file:
        assert not isinstance(file, str)
        assert len(file.read()) == 9


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written to"):
        Folder("http://127.0.0.1:1/out")
    with pytest.raises(UserError, match="expected a path, s3://"):
        Folder("nonsense://bucket")
    with pytest.raises(UserError, match="no recordings; expected"):
        find_recordings(str(tmp_path))
    with pytest.raises(UserError, match="no such folder or file"):
        find_recordings(str(tmp_path / "missing"))
