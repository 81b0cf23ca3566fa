"""The patient of a slide or picture, from the sheet or from its name."""

import re
from pathlib import Path

from muse_pipeline.core.errors import ConfigError, LabelError

_TCGA_PATIENT = r"^TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}"


def patient_in_name(name: str, rule: str | int | None = None, folder: Path | None = None) -> str:
    """The patient of the picture or slide ``name`` (without suffix); ``folder`` is for the error
    message.

    The rule is a number of leading characters, or a regular expression for ``find_in_name``; by
    default the first 12 characters of TCGA names, and otherwise the whole name.
    """
    if isinstance(rule, int):
        return name[:rule]
    if rule is None:
        return find_in_name(name, _TCGA_PATIENT) or name
    patient = find_in_name(name, rule)
    if patient is None:
        raise LabelError(
            f"{folder}: '{name}' does not match the patient rule '{rule}'; correct the rule or the"
            " name"
        )
    return patient


def find_in_name(name: str, pattern: str) -> str | None:
    """The first group of ``pattern`` in a name, or the whole match if it has no groups; None
    without a match.
    """
    match = re.search(pattern, name)
    return None if match is None else match[1 if match.re.groups else 0]


def require_patient_rule(rule: str | int | None, folder: Path) -> None:
    """Check a rule for ``patient_in_name``; the error message contains ``folder``."""
    if isinstance(rule, int) and rule < 1:
        raise LabelError(
            f"{folder}: patient {rule} is not a number of leading characters; give 1 or more"
        )
    if isinstance(rule, str):
        try:
            re.compile(rule)
        except re.error as error:
            raise LabelError(
                f"{folder}: patient '{rule}' is not a regular expression; correct it"
            ) from error


def find_patients(
    names: list[str], rows: dict[str, dict[str, str]], pattern: str | None
) -> tuple[dict[str, str], str]:
    """Return the patients, keyed by slide, and a description of their source.

    Patients are matched in the names if ``pattern`` is given, and otherwise read from the sheet,
    where a slide without a patient counts as a patient of its own.
    """
    if pattern is not None:
        matches = {name: match_patient(name, pattern) for name in names}
        return matches, f"the match of --patient '{pattern}' in each slide's name"
    patients = {name: rows.get(name, {}).get("patient", "") for name in names}
    if not any(patients.values()):
        return {
            name: name for name in names
        }, "each slide counts as a patient, since no patients are given"
    nameless = sum(not patient for patient in patients.values())
    own = (
        f"; {nameless} of {len(names)} slides have none and each count as a patient"
        if nameless
        else ""
    )
    return {name: patient or name for name, patient in patients.items()}, f"as in the sheet{own}"


def match_patient(name: str, pattern: str) -> str:
    """Like ``find_in_name`` for the option --patient, but raise an error if nothing matches."""
    try:
        patient = find_in_name(name, pattern)
    except re.error as error:
        raise ConfigError(
            f"--patient '{pattern}': is not a regular expression ({error}); correct it"
        ) from error
    if patient is None:
        raise ConfigError(
            f"--patient '{pattern}': does not match '{name}'; change it so that it matches every"
            " name"
        )
    return patient
