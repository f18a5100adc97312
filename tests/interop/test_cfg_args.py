"""``cfg_args`` is read as literals, never evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moegs.errors import FormatError, MoegsError
from moegs.interop._cfg_args import SIZE_LIMIT, Config, read_config


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "cfg_args"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_literals_of_all_kinds(tmp_path: Path) -> None:
    text = "Namespace(a=1, b=-2.5, c='x', d=None, e=True, f=[1, -2], g={'k': [64, 64]}, h=(1.0, 2))\n"
    values = read_config(written(tmp_path, text)).values
    assert values == {
        "a": 1, "b": -2.5, "c": "x", "d": None, "e": True, "f": [1, -2], "g": {"k": [64, 64]}, "h": (1.0, 2),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not of the form"),
        ("Namespace(a=1", "not of the form"),
        ("dict(a=1)", "expected the text"),
        ("Namespace(1)", "expected the text"),
        ("Namespace.x(a=1)", "expected the text"),
        ("Namespace(a=1).b", "expected the text"),
        ("Namespace(a=__import__('os').system('touch pwned'))", "option 'a': expected a plain value"),
        ("Namespace(a=[x for x in ()])", "option 'a'"),
        ("Namespace(a=2**9999999)", "option 'a'"),
        ("Namespace(**{'a': 1})", r"'\*\*'"),
        ("Namespace(a=1, a=2)", "more than once"),
        ("Namespace(a='\0')", "not of the form"),
        ("Namespace(a=" + "[" * 5000 + "]" * 5000 + ")", "not of the form|option 'a'"),
        ("Namespace(a=" + "-" * 50000 + "1)", "not of the form|option 'a'"),
        (b"Namespace(a='\xff')", "not UTF-8"),
        ("Namespace(a='" + "x" * SIZE_LIMIT + "')", "longer than"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, monkeypatch, text: str | bytes, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=message):
        read_config(written(tmp_path, text))
    assert not (tmp_path / "pwned").exists()


def test_getters_check_types(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "Namespace(n='3', f=1, k=True, w='odd', big=1e300)"))
    for call in (
        lambda: config.number("n", 1.0),
        lambda: config.number("k", 1.0),
        lambda: config.number("big", 1.0),
        lambda: config.count("k", 1),
        lambda: config.flag("f", True),
        lambda: config.choice("w", "a", ("a", "b")),
        lambda: config.refuse(f=0),
    ):
        with pytest.raises(FormatError, match="cfg_args: option"):
            call()
    assert (config.number("absent", 2.5), config.flag("absent", True), Config().count("a", 3)) == (2.5, True, 3)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_any_bytes_load_or_give_our_error(tmp_path_factory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("cfg")
    for text in (data, b"Namespace(a=" + data + b")"):
        try:
            read_config(written(folder, text))
        except MoegsError as error:
            assert "cfg_args" in str(error)
