"""Losses, each documented with its paper; these modules import torch and nothing else of this package."""
