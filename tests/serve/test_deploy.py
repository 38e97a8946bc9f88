"""The files in deploy/ agree with what the server is: they are read and checked, not built."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from sewkit.cli.main import app as command_line
from sewkit.serve.app import create_app
from sewkit.serve.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def of(kind: str) -> list[str]:
    return [arguments for name, arguments in instructions() if name == kind]


def expect_serve_options(words: list[str]) -> None:
    """What stands behind `sewkit serve` is understood by it."""
    command = typer.main.get_command(command_line)
    serve = command.commands["serve"]  # type: ignore[attr-defined]
    serve.make_context("serve", list(words), resilient_parsing=False).close()


def extras_of(text: str) -> set[str]:
    return {name for found in re.findall(r"\[([a-z,]+)\]'", text) for name in found.split(",")}


@pytest.fixture(scope="module")
def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def test_the_image_is_pinned_slim_and_runs_as_nobody_in_particular() -> None:
    assert all(re.match(r"python:3\.\d+-slim-[a-z]+\b", base) for base in of("FROM"))
    last_stage = instructions()[max(index for index, (name, _) in enumerate(instructions()) if name == "FROM") :]
    names = [name for name, _ in last_stage]
    assert dict(last_stage)["USER"] == "10001:10001"
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert names.count("HEALTHCHECK") == 1
    assert not any(name == "ADD" or "latest" in arguments for name, arguments in instructions())


def test_the_image_copies_what_is_there_and_what_it_may_see(extras: set[str]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for arguments in of("COPY"):
        if arguments.startswith("--from"):
            continue
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source.removeprefix('./')}" in ignored
    text = (DEPLOY / "Dockerfile").read_text()
    assert extras_of(text) == {"serve", "audio"} <= extras
    assert all("-c constraints.txt" in line for line in of("RUN") if "pip install" in line)


def test_the_image_starts_and_asks_what_the_server_knows() -> None:
    (entry,) = of("ENTRYPOINT")
    words = yaml.safe_load(entry)
    assert words[:2] == ["sewkit", "serve"]
    expect_serve_options(words[2:])
    (check,) = of("HEALTHCHECK")
    path = re.search(r"127\.0\.0\.1:8000(/\w+)", check)
    assert path is not None
    assert path[1] in paths_of_the_server()
    compile(yaml.safe_load(check[check.index("[") :])[2], "healthcheck", "exec")


def paths_of_the_server() -> set[str]:
    import sewkit

    return set(create_app(Settings(), sewkit.load()).openapi()["paths"])


def test_compose_starts_a_server_and_a_prometheus_that_finds_it() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    build = services["sewkit"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    expect_serve_options(services["sewkit"]["command"])
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert service["read_only"]
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in compose["volumes"]
    assert ":" in services["prometheus"]["image"]
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["sewkit:8000"]}]
    assert job.get("metrics_path", "/metrics") in paths_of_the_server()


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "sewkit.service")
    return parser


def test_the_unit_starts_the_server_and_lets_it_finish(extras: set[str]) -> None:
    service = unit()["Service"]
    words = shlex.split(service["ExecStart"])
    assert words[0].endswith("/sewkit")
    assert words[1] == "serve"
    expect_serve_options(words[2:])
    assert int(service["TimeoutStopSec"]) >= 60
    assert extras_of((DEPLOY / "sewkit.service").read_text()) <= extras


def test_the_unit_gives_the_server_no_more_than_it_needs() -> None:
    service = unit()["Service"]
    wanted = {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}
    assert {name: service[name] for name in wanted} == wanted


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "sewkit.service"  # with a program that exists, which is one of the things that are verified
    copy.write_text((DEPLOY / "sewkit.service").read_text().replace("/opt/sewkit/bin/sewkit", "/bin/true"))
    result = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
