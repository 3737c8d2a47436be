"""From bytes to networks and back."""
