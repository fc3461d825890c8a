"""Proof that the verdict can fail: stress captures, mutants of files and of RTL, equivalence, selftest.

Imports findings and below.
"""
