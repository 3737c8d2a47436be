"""Image files, image sets, bicubic resizing, metrics. Images are float RGB in [0,1], NCHW."""
