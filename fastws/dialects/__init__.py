"""The languages that clients speak: bytes to commands, updates to bytes."""
