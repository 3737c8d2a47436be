"""Reports of run folders for readers who did not see the run.

`contents` reads a run folder, `speed` its measured speed, `pictures` makes crops, `charts` the charts' data, `page`
writes the HTML, `report` and `comparison` are the verbs.
"""
