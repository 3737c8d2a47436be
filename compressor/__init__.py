"""The ground: networks, students, data, metrics, taps, training. Imports nothing of the other rooms."""
