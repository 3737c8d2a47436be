"""Runtimes, one per file: each runs one kind of model file behind the `Runtime` protocol."""
