"""Files in int8: one search for the parts that stay in float, the tools that quantise, and our own quantiser."""
