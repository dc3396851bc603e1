"""Numerical kernels: arrays in, new arrays out, nothing but numpy, scipy and numba."""
