"""The temperature that class probabilities of a model need, see Guo et al., ICML 2017."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from muse_pipeline.inference.predictor import temper

TEMPERATURES = (0.2, 10.0)  # between which one is sought


def log_loss(prob: np.ndarray, true_label: np.ndarray) -> float:
    """Mean negative log probability (N, C) of the true class (N,), natural log."""
    chosen = prob[np.arange(len(prob)), true_label]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float32).tiny)).mean())


def fit_temperature(prob: np.ndarray, true_label: np.ndarray) -> float:
    """The temperature with the least log loss of (N, C) probabilities; fit it on what the model has not seen."""
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log: log_loss(temper(prob, float(np.exp(log))), true_label), bounds=(low, high), method="bounded"
    )
    return float(np.exp(found.x))
