"""Completion in a shell: the script that bash reads, and the words that it gets."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The command `secfed` in a folder of its own, as pip would install it."""
    file = tmp_path / "secfed"
    file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m secfed "$@"\n')
    file.chmod(0o755)
    return file


def run(program: Path, *command: str, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PATH": f"{program.parent}:{os.environ['PATH']}", **more}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert ended.returncode == 0 and ended.stderr == "", ended
    return ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_choices(program: Path) -> None:
    """The shell itself runs the script that `secfed` gives it, and asks for the words after several beginnings."""
    script = program.parent / "script"
    script.write_text(run(program, str(program), _SECFED_COMPLETE="source_bash"))
    found = {}
    for line in (
        "secfed sim",
        "secfed simulate --priv",
        "secfed simulate --privacy ",
        "secfed schema budget-s",
        "secfed --version b",
    ):
        *before, last = line.split(" ")
        words = " ".join(shlex.quote(word) for word in (*before, last))
        complete = f"COMP_WORDS=({words}); COMP_CWORD={len(before)}; _secfed_completion secfed"
        printed = run(program, "bash", "-c", f'source {script}; {complete}; printf "%s\\n" "${{COMPREPLY[@]}}"')
        found[line] = set(printed.split())
    assert found == {
        "secfed sim": {"simulate"},
        "secfed simulate --priv": {"--privacy"},
        "secfed simulate --privacy ": {"none", "central", "distributed"},
        "secfed schema budget-s": {"budget-spend", "budget-show"},
        "secfed --version b": {"budget"},
    }


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef secfed"), ("fish", "complete --command secfed")])
def test_other_shells_have_scripts_too(program: Path, shell: str, begins: str) -> None:
    assert run(program, str(program), _SECFED_COMPLETE=f"source_{shell}").lstrip().startswith(begins)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_show_completion_prints_the_script_of_the_shell_that_runs(program: Path) -> None:
    # Two commands: of one, bash would make itself the program, and there would be no shell to find.
    printed = run(program, "bash", "-c", "secfed --show-completion bash; true")
    assert printed.strip() == run(program, str(program), _SECFED_COMPLETE="source_bash").strip()
