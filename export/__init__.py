"""Exported files: written in each format, compared with their network, timed; the profiler and the planner.

The packages import downwards, in this order (docs/design/export.md):

    plan       measured search for the largest student that meets a target
    profile    speed, memory, cost and quality of models
    writing    `srkd export`: files written, proved, recorded and described
    int8       files in int8: the search, the tools that quantise, our own quantiser
    convert    float files, a file a format
    graph      the ONNX graph of a network
    proof      what is measured of a file before it gets its name
    formats    the table of formats, the job of a converter, the images of the comparison
    timing     latencies measured in turns
"""
