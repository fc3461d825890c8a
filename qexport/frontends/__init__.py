"""Networks of frameworks to captures; with train the only rooms that load torch.

Imports core alone.
"""
