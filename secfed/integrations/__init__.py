"""Secure sums inside other people's pipelines: one module or package for each framework.

Nothing here is imported by the rest of the library, and each module imports its own framework only: `torch`, `flower`
and `nvflare` are extras of the same names.
"""
