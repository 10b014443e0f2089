"""Landmark recognition by image retrieval: photographs in, landmarks or "none" out.

The library has no command line, prints nothing and has no default paths; ``pipelines`` is what
``make`` and ``landmarks`` call.
"""

import contextlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


class _FaissFirst(MetaPathFinder):
    """Imports FAISS whenever torch is about to be, whoever asks for that.

    FAISS and torch each bring an OpenMP runtime and their own CUDA libraries. Loaded torch first,
    FAISS has crashed or hung in several releases (faiss#3401, pytorch#149201); loaded FAISS first,
    both work. What needs neither loads neither: they take seconds.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Find nothing: the next finder does."""
        if name == "torch":
            with contextlib.suppress(ImportError):  # who needs it is told by its own import
                import faiss  # noqa: F401


sys.meta_path.insert(0, _FaissFirst())
