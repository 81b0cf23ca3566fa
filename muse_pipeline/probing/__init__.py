"""Evaluation of a backbone's features: classes at given points, and the same nucleus in two views."""
