"""Registers the model with transformers as soon as transformers is imported, and does not import it before.

Importing any module of `cfsam_hf.model` registers the model's classes. What remains is the program that imports only
`cfsam_hf` and then uses transformers: a finder on `sys.meta_path` waits for the import of transformers and, when that
is complete, imports `cfsam_hf.model`.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_LIBRARY = "transformers"


def register_with_transformers() -> None:
    """Registers the model now if transformers is imported, else on its import."""
    if sys.modules.get(_LIBRARY) is not None:
        _import_model()
    elif _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def _import_model() -> None:
    # As a statement: unlike `importlib.import_module` it accepts a partly imported module, where another thread, or
    # this one further up, is importing the model and with it transformers.
    import cfsam_hf.model  # noqa: F401


class _TransformersFinder(MetaPathFinder):
    """Finds transformers as the other finders do, with a loader that also registers the model."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _RegisteringLoader(spec.loader)
                return spec
        return None


class _RegisteringLoader(Loader):
    """Loads transformers with its own loader and then registers the model.

    The module keeps its own loader. A spec that is only inspected, as by `importlib.util.find_spec`, changes nothing.
    """

    def __init__(self, loader: Loader):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if _FINDER in sys.meta_path:
            sys.meta_path.remove(_FINDER)
        _import_model()


_FINDER = _TransformersFinder()
