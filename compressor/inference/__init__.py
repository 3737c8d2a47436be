"""Opening of model files, exact tiled upscaling of images, and scoring of models on image sets."""
