"""What `make` and `landmarks` call: one file a stage, thin over the library."""
