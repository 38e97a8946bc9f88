"""The server keeps to its own OpenAPI document, whatever is sent: schemathesis makes the requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks
from toy_server import serving

import sewkit

KEY = {"authorization": "Bearer secret"}
load_all_checks()
CHECKED = CHECKS.get_by_names([name for name in CHECKS.get_all_names() if name != "positive_data_acceptance"])
"""All but one: bytes in a field for a file are valid by any schema, and yet no sound."""


@pytest.fixture(scope="module")
def url(stochastic: sewkit.Recognizer) -> Iterator[str]:
    with serving(stochastic, api_key="secret") as url:
        yield url


def requests_of(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> Callable[[], None]:
    """A test that sends requests which keep to the document, or which in some way do not."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=12, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    def send(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=KEY, checks=CHECKED, timeout=60)

    return send


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_server_keeps_to_its_own_document(url, mode):
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    sent = 0
    for found in document.get_all_operations():
        operation = found.ok()
        try:
            requests_of(operation, mode)()
            sent += 1
        except Unsatisfiable:  # there is nothing to send that would not keep to it
            assert mode is schemathesis.GenerationMode.NEGATIVE
    assert sent >= 1


def test_the_document_names_all_addresses(url):
    paths = set(schemathesis.openapi.from_url(f"{url}/openapi.json").raw_schema["paths"])
    transcription = {"/v1/audio/transcriptions", "/v1/models", "/v1/models/{model}", "/v1/state"}
    assert paths >= transcription | {"/health", "/ready", "/metrics"}
