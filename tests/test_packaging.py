"""The built wheel, in an empty environment, with no network: what a user gets from `pip install sewkit`."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "examples" / "digits.flac"


def run(*command: object, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT / "examples",  # where nothing can be imported from
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_alone_transcribes_offline(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")

    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel)
    assert "transformers" not in run(python, "-m", "pip", "list")

    text = (CLIP.with_suffix(".txt")).read_text().strip()
    sewkit = tmp_path / "empty" / "bin" / "sewkit"
    assert run(sewkit, "transcribe", CLIP, HF_HUB_OFFLINE="1", PYTHONPATH="").strip() == text
    assert (
        run(python, "-c", "import sewkit, pathlib; print((pathlib.Path(sewkit.__file__).parent / 'py.typed').exists())")
        == "True\n"
    )
