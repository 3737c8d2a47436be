"""What terms of several methods are made of: distances, gates, features, contrast, φ, quantisers."""
