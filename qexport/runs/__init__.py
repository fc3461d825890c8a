"""Regressions: jobs and results as plain data, a store of results, and a driver over any executor.

Others use `plan.read_plan`, `regress.regress`, `store.Store` and `told`. A job is addressed by what its verdict depends
on; its result is one file that nobody changes.
"""
