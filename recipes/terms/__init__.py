"""The mathematics of the methods as pure tensor code, without engine and presets.

Losses are computed in fp32 (or fp64 where that comes in) whatever autocast is on, on any device, with finite gradients;
the image range is [0,1]; random numbers are a pure function of seed, step and samples.
"""
