"""Parts of terms that several methods share: distances, gates, features, contrast, φ, quantisers."""
