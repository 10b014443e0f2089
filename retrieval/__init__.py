"""Landmark recognition by image retrieval: photographs in, landmarks or "none" out.

The library has no command line, prints nothing and has no default paths; ``pipelines`` is what
``make`` and ``landmarks`` call.
"""

# FAISS and torch each bring an OpenMP runtime and their own CUDA libraries. Loaded torch first,
# FAISS has crashed or hung in several releases (faiss#3401, pytorch#149201); loaded FAISS first,
# both work. So every import of this package begins with FAISS, before any module can pull in torch.
import faiss  # noqa: F401
