"""The table of formats, the job of a converter, and the images that a file is compared on."""
