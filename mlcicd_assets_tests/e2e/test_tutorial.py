"""The tutorial as it stands: every command of docs/add_a_model.md up to the scored request."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.processes import free_port

pytestmark = pytest.mark.ci

MODEL = "machine_failure"


def tutorial_commands() -> list[str]:
    """The lines after a prompt, before the first section about something else."""
    page = (ROOT / "docs" / "add_a_model.md").read_text().partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_tutorial_ends_with_an_answer(tmp_path: Path) -> None:
    commands = tutorial_commands()
    assert len(commands) >= 8
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    url = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "MLCICD_ENDPOINTS": url}
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=environment,
    ) as shell:
        outputs: list[str] = []
        started = time.monotonic()
        try:
            for command in commands:
                begun = time.monotonic()
                output, code = in_shell(shell, command)
                print(f"{time.monotonic() - begun:6.1f} s  $ {command}")
                assert code == 0, f"{command}\n{output[-4000:]}"
                outputs.append(output)
        finally:
            in_shell(shell, ".venv/bin/mlcicd stop")
            shell.stdin.close()
    minutes = (time.monotonic() - started) / 60
    print(f"tutorial: {len(commands)} commands, {minutes:.1f} minutes")
    tried, scored, status = (
        next(text for text, line in zip(outputs, commands, strict=True) if f"mlcicd {word}" in line)
        for word in ("try", "score", "status")
    )
    assert "it would be released" in tried
    assert re.search(rf"live: {MODEL} v1 at {url}/\S+ score 0\.\d+", scored)
    assert "v1" in status


def in_shell(shell: "subprocess.Popen[str]", command: str) -> tuple[str, int]:
    """What a command prints, and its exit code; `export` works on for the next ones."""
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write(f'{command} </dev/null\necho "@@@ $?"\n')
    shell.stdin.flush()
    lines: list[str] = []
    for line in shell.stdout:
        if line.startswith("@@@ "):
            return "".join(lines), int(line[4:])
        lines.append(line)
    raise AssertionError("the shell ended:\n" + "".join(lines))
