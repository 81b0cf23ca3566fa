"""Losses, one per file, named for their paper; they import torch and nothing of ours."""
