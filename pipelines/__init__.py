"""What `make` and `landmarks` call: one file a stage, thin over the library."""

import retrieval  # noqa: F401  # FAISS is imported before torch from here on
