"""Every accumulator through a user's post-processing module: which are sent, what came back, where they part.

Others use run.exhaust and its result.
"""
