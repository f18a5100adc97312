"""The command line as a whole: help, exit codes, messages."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from moegs_cli import main as cli_main
from moegs_cli.main import COMMANDS, main


def test_help_does_not_import_torch():
    program = (
        "import sys; from moegs_cli.main import main; main(['--help'], standalone_mode=False);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_every_command_explains_itself(cli):
    for name in COMMANDS:
        text = cli(name, "--help").output
        assert "Usage: moegs " + name in text
        assert "Example" in text or name in ("doctor", "data")
        options = [line for line in text.splitlines() if line.startswith("  --")]
        assert all(len(line.split(None, 1)) == 2 for line in options)


def test_the_group_lists_a_sentence_for_every_command(cli):
    listed = cli("--help").output
    assert "..." not in listed.partition("Commands:")[2].partition("A clip")[0]


def test_version(cli):
    assert cli("--version").output.startswith("moegs 0.")


def test_unknown_command_is_wrong_usage(cli):
    assert "No such command 'trian'" in cli("trian", exit_code=2).output


def test_an_error_of_ours_is_one_line(cli, tmp_path):
    result = cli("data", "check", tmp_path / "nothing", exit_code=1)
    assert "no such folder" in result.output
    result = cli("info", tmp_path, exit_code=1)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("moegs: ")
    assert "expected manifest.json (a mixture) or expert.safetensors" in result.stderr


def test_debug_shows_the_traceback(tmp_path):
    result = CliRunner().invoke(main, ["--debug", "info", str(tmp_path)])
    assert type(result.exception).__name__ == "FormatError"


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (OSError("disk full"), 1), (KeyError(3), 1)])
def test_exit_codes(monkeypatch, raised, code):
    @click.command()
    def doctor() -> None:
        raise raised

    monkeypatch.setattr(cli_main.Commands, "get_command", lambda self, ctx, name: doctor)
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == code
    assert ("Traceback" in result.stderr) == isinstance(raised, KeyError)
