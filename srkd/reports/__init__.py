"""Reports of run folders for readers who did not see the run.

`contents` reads a run folder; `pictures` makes crops, `charts` charts. `page` says what a page shows, and
writes it from the templates. The verbs are in `srkd.api.report` and `srkd.api.compare`.
"""
