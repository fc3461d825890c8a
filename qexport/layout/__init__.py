"""Which code stands where: the order notation, tiling, words, memory files, presets and file formats.

Imports core.
"""
