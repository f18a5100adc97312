"""Runtime checks of annotated shapes, for the test run alone.

Every function of moegs that annotates an array is called through jaxtyping and beartype. A call that violates its
shapes may still be refused by the function's own checks, with one of moegs's own errors; only where the function would
have let it pass does the violation surface. Other annotations are the static type checker's business.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import FunctionType, ModuleType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import TypeCheckError, jaxtyped

_ARRAY = re.compile(r"\b(Float|Int|Bool|UInt|Num|Shaped)\d*\[")
_BEARTYPE = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as the type checker says


def install(package: str) -> None:
    """Check all modules of a package that are imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


class _Finder(MetaPathFinder):
    def __init__(self, package: str):
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if isinstance(spec.loader, importlib.machinery.SourceFileLoader):
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    def __init__(self, inner: importlib.machinery.SourceFileLoader):
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.inner.exec_module(module)
        _check_namespace(module, module.__name__)


def _check_namespace(owner: Any, module: str) -> None:
    for name, value in list(vars(owner).items()):
        if getattr(value, "__module__", module) != module:
            continue
        if isinstance(value, FunctionType):
            setattr(owner, name, checked(value))
        elif isinstance(value, classmethod | staticmethod) and isinstance(value.__func__, FunctionType):
            setattr(owner, name, type(value)(checked(value.__func__)))
        elif inspect.isclass(value) and inspect.ismodule(owner):
            _check_namespace(value, module)


def checked(function: FunctionType) -> Callable[..., Any]:
    """A function that holds its calls against its annotations."""
    if hasattr(function, "__wrapped__") or inspect.isgeneratorfunction(function):
        return function
    annotations = {name: hint for name, hint in function.__annotations__.items() if _ARRAY.search(str(hint))}
    if not annotations:
        return function
    strict = jaxtyped(_with_annotations(function, annotations), typechecker=_BEARTYPE)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return strict(*args, **kwargs)
        except TypeCheckError as violation:
            if not getattr(violation, "settled", False):
                function(*args, **kwargs)  # raises if moegs refuses these arguments by itself
                violation.settled = True  # type: ignore[attr-defined]
            raise

    return call


def _with_annotations(function: FunctionType, annotations: dict[str, Any]) -> FunctionType:
    code, scope, closure = function.__code__, function.__globals__, function.__closure__
    twin = FunctionType(code, scope, function.__name__, function.__defaults__, closure)
    twin.__kwdefaults__, twin.__annotations__ = function.__kwdefaults__, annotations
    twin.__module__, twin.__qualname__ = function.__module__, function.__qualname__
    return twin
