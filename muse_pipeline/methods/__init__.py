"""Training methods, one package each: ``config``, ``data``, ``method`` and ``run``, which registers
its recipe.
"""
