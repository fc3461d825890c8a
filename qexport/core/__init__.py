"""Exact integer facts of a layer: formats, geometry, tensors, captures, the golden, steps, rescaling, strength.

Imports numpy and qexport.errors alone; never a framework.
"""
