"""What came back: words and waves, the changed model, hypotheses, diagnose, explain, shrink.

Imports sim, build and below.
"""
