"""Losses, each named for its paper; they import torch and nothing of this package."""
