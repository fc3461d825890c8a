"""Writing a set and reading it back: dump, verify, show, choosing images.

Imports bench and below.
"""
