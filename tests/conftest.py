"""What tests of every folder use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from moegs.render import native

ISAS = ("avx512", "avx2", "portable")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded frames of tests do not fill the cache of who runs them; processes that tests start inherit this."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test on each instruction set that this processor has."""
    if not native.available():
        pytest.skip(native.why_not())
    before = native.isa()
    try:
        native.library().set_isa(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield request.param
    native.library().set_isa(before)
