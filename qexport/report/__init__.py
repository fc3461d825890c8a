"""Results as pages and pictures that need nothing beside themselves: typed results go in, bytes come out.

Others use `set_page`, `run_page` and `plot` of `sets`, `folder_page`, `training_page` and `comparison`. One file for
each section; `sets.SECTIONS` says which a page has.
"""
