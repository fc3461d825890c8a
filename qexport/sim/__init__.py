"""Running a bench: simulators, builds and their cache, the verdict.

Imports bench and below.
"""
