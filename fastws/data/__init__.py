"""Data files that ship with fastws; read them through `importlib.resources`."""
