"""The demo, and its rendered photographs."""
