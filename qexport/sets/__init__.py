"""The contract on disk: manifest, index, and folders that appear whole or not at all.

Imports core and layout.
"""
