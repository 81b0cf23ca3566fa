"""Describe a model: a built-in model by its name, an .onnx file, or a training run that makes a
model.

Prints the model's name, mpp and classes. `--resolved` writes what the workflow needs before it
starts: the model's file and checksum, or all files that the training run reads, and the provider,
for which `auto` is resolved here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.core.types import Written


def run(
    model: str,
    provider: str = "cpu",
    here: bool = False,
    data: Path | None = None,
    changes: Sequence[str] = (),
    resolved: Written | None = None,
) -> None:
    """Describe the model.

    Args:
        model: built-in name, .onnx file or training config (YAML)
        provider: runtime of the model
        here: fail if the provider does not start on this machine
        data: folder to which the config's paths are relative
        changes: change settings of the config, such as schedule.steps=100
        resolved: write the description as JSON
    """
    from muse_pipeline.core.files import write_json
    from muse_pipeline.inference.model import choose_provider, describe_model, require_start

    provider = choose_provider(provider)
    if here:
        require_start(provider)
    if model.endswith((".yaml", ".yml")):
        from muse_pipeline.training.recipe import load_run

        recipe, config = load_run(Path(model), data, changes, default="detector")
        facts = recipe.describe(config)
    else:
        facts = describe_model(model, provider)
    facts["provider"] = provider
    if resolved:
        write_json(resolved, facts)
    print(
        f"{facts.get('model', facts['name'])}: {facts['mpp']:g} um/px;"
        f" {', '.join(facts['classes'])}"
    )
