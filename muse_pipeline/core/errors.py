"""What can go wrong through no fault of the code, each with one sentence for its reader.

Every message says what was found, where, and what to do. The command line prints it as it is and exits with status 2;
any other exception keeps its traceback, because it is a defect of ours.
"""


class MuseError(Exception):
    """A mistake in the input or the surroundings that the user can mend."""


class SlideError(MuseError, OSError):
    """A slide cannot be opened or read."""


class HangingReadError(MuseError, TimeoutError):
    """Reading a slide does not end; no ``SlideError``, for those may pass as damage to one region."""


class MppError(MuseError, ValueError):
    """The size of a pixel is missing, implausible or does not suit what was asked for."""


class SheetError(MuseError, ValueError):
    """The sheet of slides breaks its rules; every broken row is named."""


class ConfigError(MuseError, ValueError):
    """A setting is unknown or has a value that cannot be used."""


class StoreError(MuseError, OSError):
    """An image store is missing, incomplete or not ours."""


class ModelError(MuseError, ValueError):
    """A model file has no card, or its card does not suit the slide or the machine."""


class ProviderError(MuseError, RuntimeError):
    """A runtime provider was asked for and is not there; nothing falls back in silence."""


class MissingPackageError(MuseError, ImportError):
    """A step needs a package of an extra that is not installed."""


class FrameError(MuseError, ValueError):
    """Positions of one frame were used where another is expected."""


class RegistrationError(MuseError, ValueError):
    """A partner does not fit its slide, or its transform cannot be used."""


class LabelError(MuseError, ValueError):
    """A label file cannot be read or names a class that nobody declared."""


class GeoJSONError(MuseError, ValueError):
    """A GeoJSON file breaks the rules of its reader."""


class OutputError(MuseError, OSError):
    """A result cannot be written where it was asked for."""


class CheckpointError(MuseError, ValueError):
    """A checkpoint does not fit the network or the run that it is loaded into."""


class NucleiError(MuseError, ValueError):
    """A table of nuclei is missing, incomplete or not ours."""


class ArgumentError(MuseError, ValueError):
    """An argument of a Python call cannot be used."""


class DivergedError(MuseError, ArithmeticError):
    """The loss of a training run is no longer a number."""


class CollapsedError(MuseError, ArithmeticError):
    """Self-supervised training says the same of everything."""


class MuseWarning(UserWarning):
    """A result is complete, but something about the slide or the model should be checked."""


class LeftOutWarning(MuseWarning):
    """Something in the input cannot be used and is left out."""
