from __future__ import annotations

import pytest

from moegs import progress as bars
from moegs.train.progress import training_bar


@pytest.mark.parametrize(
    ("patience", "enabled", "shows"), [(0.0, True, True), (60.0, True, False), (0.0, False, False)]
)
def test_the_bar_appears_only_when_it_is_wanted_and_late(capsys, monkeypatch, patience, enabled, shows):
    monkeypatch.setattr(bars, "PATIENCE", patience)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as the bar can tell
    with bars.progress_bar("Decoding video", 2, enabled) as advance:
        advance()
        advance()
    captured = capsys.readouterr()
    assert captured.out == "" and ("Decoding video" in captured.err) == shows


def test_a_log_gets_no_empty_lines_of_bars_that_were_not_shown(capsys):
    assert list(bars.tracked("abc", "quick", 3)) == ["a", "b", "c"]
    list(bars.tracked("abc", "quiet", 3, enabled=False))
    with training_bar("quiet", 2, enabled=False) as update:
        update(1, loss=0.5)
    assert capsys.readouterr() == ("", "")
