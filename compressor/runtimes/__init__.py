"""One file a runtime: each runs a kind of model file behind the `Runtime` protocol."""
