"""The mathematics of the methods as pure tensor code: one small file a piece, no engine, no presets.

What the pieces have in common: losses are computed in fp32 (or fp64 where that comes in) whatever autocast is on, on
any device, with finite gradients; the image range is [0,1]; a draw is a pure function of its seed, step and samples.
"""
