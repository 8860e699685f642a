"""Checks of a fitted model: arrays or callables in, numbers out; no VAE inside."""
