"""Errors that the user can fix.

A message states what was found, where, and what to do. The command line prints it and exits with
status 2; any other exception is a bug and keeps its traceback.
"""


class MuseError(Exception):
    """A mistake in the input or the environment that the user can fix."""


class SlideError(MuseError, OSError):
    """A slide cannot be opened or read."""


class HangingReadError(MuseError, TimeoutError):
    """Reading a slide hangs, so it is not read any further; a ``SlideError`` may concern only a
    damaged region.
    """


class ProcessError(MuseError, RuntimeError):
    """A process that a step started was killed, or ran out of memory or time."""


class MppError(MuseError, ValueError):
    """A pixel size is missing, implausible or unsuitable."""


class SheetError(MuseError, ValueError):
    """A sheet of slides, or one of its rows, is missing or invalid."""


class ConfigError(MuseError, ValueError):
    """A setting is unknown or has a value that cannot be used."""


class StoreError(MuseError, OSError):
    """An image store is missing, incomplete or not written by this package."""


class ModelError(MuseError, ValueError):
    """A model file has no card, cannot be run, or does not suit the slide or the machine."""


class ProviderError(MuseError, RuntimeError):
    """A runtime provider was requested but is not available; there is no silent fallback."""


class MissingPackageError(MuseError, ImportError):
    """A step needs a package from an extra that is not installed."""


class FrameError(MuseError, ValueError):
    """Positions are in a frame other than the expected one."""


class RegistrationError(MuseError, ValueError):
    """A partner does not fit its slide, or its transform cannot be used."""


class MisfitError(RegistrationError):
    """The nuclei of a partner do not match those of its slide."""


class LabelError(MuseError, ValueError):
    """A label file cannot be read or has an undeclared class."""


class GeoJSONError(MuseError, ValueError):
    """A GeoJSON file is invalid, or contains something that its reader does not accept."""


class OutputError(MuseError, OSError):
    """A result cannot be written to the requested path."""


class CheckpointError(MuseError, ValueError):
    """A checkpoint does not match the network or the run into which it is loaded."""


class NucleiError(MuseError, ValueError):
    """A table of nuclei is missing, incomplete or not written by this package."""


class ArgumentError(MuseError, ValueError):
    """An argument of a Python call cannot be used."""


class DivergedError(MuseError, ArithmeticError):
    """The loss of a training run is no longer a number."""


class CollapsedError(MuseError, ArithmeticError):
    """Self-supervised training collapsed: the network has the same output for every input."""


class MuseWarning(UserWarning):
    """A result is complete, but something about the slide or the model should be checked."""


class LeftOutWarning(MuseWarning):
    """Something in the input cannot be used and is left out."""
