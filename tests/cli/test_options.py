"""What a shell completes arguments to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def completed(words: str, folder: Path) -> list[str]:
    """What bash is offered for the last of `words`, and that torch was not needed for it."""
    code = "import sys\nfrom speechkit.cli.main import main\ntry: main([])\n"
    code += "finally: assert 'torch' not in sys.modules"
    parts = words.split(" ")
    environment = {
        **os.environ,
        "_SPEECHKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(parts) - 1),
    }
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.stderr == ""
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("speechkit info d", ["digits"]),
        ("speechkit vad --model v", ["vad", "vad_causal", "voices/"]),
        ("speechkit info runs/[a", ["runs/[a]/"]),
        ("speechkit plugins list --kind fr", ["frontend"]),
        ("speechkit plugins show core/mfc", ["core/mfcc"]),
        ("speechkit transcribe --decoder gr", ["greedy"]),
    ],
)
def test_models_and_components_are_completed(
    tmp_path: Path, words: str, offered: list[str]
) -> None:
    for folder in ("voices", "runs/[a]", "runs/ab"):
        (tmp_path / folder).mkdir(parents=True)
    assert completed(words, tmp_path) == offered
