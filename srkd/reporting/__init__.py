"""Reports of run folders: what was gained, for somebody who was not there.

`contents` reads a run folder, `speed` its measured speed, `pictures` makes crops, `charts` says what is drawn, `page`
writes the HTML, `report` and `comparison` are the verbs.
"""
