"""MUSE: nucleus-guided dense self-distillation (arXiv 2511.05170)."""
