"""Losses, each named for its paper; they import torch and no other module of this package."""
