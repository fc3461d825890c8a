"""The flat training loop, several processes, comparisons.

Imports frontends.vgg.
"""
