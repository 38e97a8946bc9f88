"""Models and servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from toy_server import Serve, serving

import sewkit
from sewkit.checkpoint import save_model
from sewkit.testing import toy_model
from sewkit.text import Alphabet


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def stochastic(tmp_path_factory: pytest.TempPathFactory) -> sewkit.Recognizer:
    """Random weights and a grid of operating points; what it writes changes with every sound it hears."""
    folder = tmp_path_factory.mktemp("models") / "stochastic"
    save_model(folder, toy_model("stochastic-sew"), Alphabet.english())
    return sewkit.load(folder)


@pytest.fixture(scope="session")
def words() -> sewkit.Recognizer:
    """The bundled model, which gets the words of the clips right."""
    return sewkit.load()


@pytest.fixture(scope="session")
def words_url(words: sewkit.Recognizer) -> Iterator[str]:
    """A server of the bundled model that many tests share."""
    with serving(words, aliases=("whisper-1",)) as url:
        yield url


@pytest.fixture
def serve() -> Iterator[Serve]:
    """See `Serve`."""
    with ExitStack() as stack:
        yield lambda asr, **settings: stack.enter_context(serving(asr, **settings))
