"""The config and the sheet, checked before anything runs, and what rules ask of them.

Takes the config, the sheet and the model that it names; gives OUTPUT/run_config.yaml (the config with every default
filled in), OUTPUT/sheet.json (the sheet with absolute paths) and OUTPUT/model.json (what the model is, and what a training
run reads), each rewritten only when its content changes, and not while a run is under way. What is wrong with them ends
the run in one sentence (sys.exit): below an exception Snakemake would name the lines of this file.

A row of the sheet enters the rules as params, cell by cell, and the sheet is no rule's input: so editing one row reruns
one slide. The workflow knows the package by its command line only.
"""

import atexit
import gc
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from difflib import get_close_matches
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

# The `muse` beside this Snakemake is the one that runs, whether or not their environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# A plan is millions of objects that stay; a fifth of its time would go into looking for garbage among them. What the run
# itself leaves is collected: `onstart`.
gc.disable()


def text_of(path):
    """What a file says; None where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else None


def is_locked():
    """Whether a run is under way here, or was killed."""
    return any(Path(".snakemake/locks").glob("*.lock"))


def write_if_changed(path, text):
    """Keep the file's time when its content stays, so that nothing reruns for it.

    The jobs of a run under way read it when they begin, hours after they were planned: while Snakemake's lock is there
    nothing is written over it, by a dry run neither.
    """
    try:
        if (found := text_of(path)) == text:
            return
        if found is not None and is_locked():
            if "--unlock" in sys.argv:
                return
            sys.exit(
                f"{path}: a run under way reads it, and this one has other settings; wait for its end, or lift the lock "
                "of one that was killed with `snakemake --unlock`"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        sys.exit(f"{path}: cannot be written ({error.strerror}); set `output` to another folder")


def record(path, text):
    """Write what a run uses, and say where it stands: a dry run leaves what the last one used, and plans by a copy."""
    if not workflow.output_settings.dryrun or text_of(path) in {None, text} or is_locked():
        write_if_changed(path, text)
        return path
    copy = Path(tempfile.mkdtemp(), path.name)
    atexit.register(shutil.rmtree, copy.parent)
    copy.write_text(text, encoding="utf-8")
    return copy


def say_last(text):
    """Print ``text`` when Snakemake has said all of its own words: people read the last lines."""
    atexit.register(print, text, flush=True)


def lines_of(log):
    """The lines of a log; none where there is none."""
    return log.read_text(encoding="utf-8").rstrip().splitlines() if log.is_file() else []


def resolve(*command):
    """What `muse COMMAND --resolved JSON` finds; its complaint, if it has one, is the last that is said."""
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder, "resolved.json")
        check = subprocess.run(["muse", *command, "--resolved", resolved], capture_output=True, text=True)
        if check.returncode:
            sys.exit(check.stderr.strip())
        return json.loads(resolved.read_text(encoding="utf-8"))


def training_config():
    """The file of the training run that the config names as its model, or None."""
    model = config["model"]
    if isinstance(model, str) and not model.endswith((".yaml", ".yml")):
        return None
    return run_file(model, "training")


def run_file(run, folder):
    """The file of a run, which is given as its file or as its settings.

    Settings that stand in the config itself get a file; their paths start where Snakemake was started.
    """
    if isinstance(run, str):
        return run
    if "checkpoint" in run:
        run = {**run, "checkpoint": start_here(run["checkpoint"])}
    if isinstance(taught := run.get("distillation"), dict) and isinstance(taught.get("teachers"), list):
        run = {**run, "distillation": {**taught, "teachers": [start_here(one) for one in taught["teachers"]]}}
    path = Path(OUTPUT, folder, f"{slug(run['name'])}.yaml")
    write_if_changed(path, yaml.safe_dump(json.loads(json.dumps(run)), allow_unicode=True, sort_keys=False))
    return str(path)


def start_here(checkpoint):
    """The path of a checkpoint from where Snakemake was started; names of built-in models, and what is no path, stay."""
    has_suffix = isinstance(checkpoint, str) and Path(checkpoint).suffix
    return str(Path(checkpoint).resolve()) if has_suffix else checkpoint


def training_data():
    """Arguments that say where the paths of a training run start, where that is not at its own file."""
    data = config["train_data"] or (None if isinstance(config["model"], str) else ".")
    return option("--data", data)


def slug(name):
    """``name`` as a folder may be called."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "model"


def resolve_model():
    """What the model is; one that does not suit the config's mpp is refused."""
    # A run that begins with a backbone that is yet to be pretrained begins with no file that is there now.
    later = ["--set", "checkpoint=null"] if config["pretrain"] else []
    # Without nodes to send jobs to they run on this machine; of those of a cluster a login node knows nothing.
    here = ["--here"] if workflow.resource_settings.nodes is None else []
    model = resolve(
        "model",
        TRAINING or config["model"],
        "--provider",
        config["provider"],
        *here,
        *([*training_data(), *later] if TRAINING else []),
    )
    if abs(model["mpp"] / config["mpp"] - 1) > 1e-6:
        sys.exit(
            f"config: mpp is {config['mpp']:g}, but model '{model['name']}' works at {model['mpp']:g} um/px; set "
            f"`mpp: {model['mpp']:g}` or choose another model"
        )
    if config["mode"] == "label-free" and len(model["classes"]) > 1:
        sys.exit(
            f"config: mode label-free has nuclei of one class, and model '{model['name']}' has "
            f"{', '.join(model['classes'])}; leave one of the two settings out"
        )
    return model


MODEL_OF_MODE = {"supervised": "compact", "label-free": "label_free"}


def explain(wrong):
    """What breaks the schema, and what to do; an unknown setting is told of in the package's words, with its nearest."""
    names = {"additionalProperties": wrong.schema.get("properties"), "required": wrong.validator_value}
    known = names.get(wrong.validator, ())
    unknown = [str(key) for key in wrong.instance if key not in known] if known else []
    for key in unknown:
        if near := get_close_matches(key, known):
            nearest = max(near, key=lambda name: sorted(name) == sorted(key))  # `modle` is `model`, not `mode`
            return f"unknown setting '{key}'; did you mean '{nearest}'?"
    message = f"unknown setting '{unknown[0]}'" if wrong.validator == "additionalProperties" else wrong.message
    return f"{message}; config/README.md explains the settings"


def at_home(value):
    """A setting whose ~ is the user's home, as a shell has it; settings within settings and lists likewise."""
    if isinstance(value, dict):
        return {name: at_home(each) for name, each in value.items()}
    if isinstance(value, list):
        return [at_home(each) for each in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def check_config():
    """Fill in the defaults; what is wrong becomes one sentence in place of the whole schema, before anything is written."""
    try:
        validate(config, "../schemas/config.schema.yaml")
    except WorkflowError as error:
        wrong = error.__context__
        setting = ".".join(map(str, wrong.absolute_path))
        sys.exit(f"config: {setting}{': ' if setting else ''}{explain(wrong)}")
    config.update(at_home(config))
    for setting in ("shards", "max_features"):  # to the schema 1.0e+5 is a whole number, to a command line it is none
        if config[setting] is not None:
            config[setting] = int(config[setting])
    if patterns := sorted(set('{}<>*?"').intersection(config["output"])):
        sys.exit(
            f"config: output: {config['output']} has {' '.join(patterns)} in it, which rules take for patterns; rename it"
        )
    config["model"] = config["model"] or MODEL_OF_MODE[config["mode"]]
    if config["pretrain"]:
        config["proposals"] = config["proposals"] or {"method": "haematoxylin"}
    if config["proposals"] and workflow.is_main_process:
        settings = dict(config["proposals"])
        resolve("proposer", settings.pop("method"), "--settings", json.dumps(settings))


def of_every_slide(*names):
    """An input function: the files called ``names`` in the folder of every slide."""
    return lambda wildcards: [f"{OUTPUT}/{slide}/{name}" for slide in SLIDES for name in names]


def row(wildcards):
    """The slide's row of the sheet."""
    if wildcards.slide not in ROWS:
        raise WorkflowError(f"{wildcards.slide}: no such slide in {config['slides']}")
    return ROWS[wildcards.slide]


def cell(column):
    """A params function: what the slide's row says in ``column``."""
    return lambda wildcards: row(wildcards).get(column)


def option(flag, value):
    """A flag with its value as arguments of a command, or nothing where there is no value."""
    return [] if value is None else [flag, value]


def row_option(flag, column):
    """A params function: the flag with what the slide's row says in ``column``, or nothing where the cell is empty."""
    return lambda wildcards: option(flag, row(wildcards).get(column))


def is_elsewhere(slide):
    """Whether a slide of the sheet lies at a URL."""
    return slide in ROWS and "://" in ROWS[slide]["path"]


def slide_file(wildcards):
    """An input function: the slide, or the copy of one that lies elsewhere."""
    return slide_argument(wildcards) if is_elsewhere(wildcards.slide) else row_file("path")(wildcards)


def slide_argument(wildcards):
    """A params function: where a step finds the slide."""
    path = row(wildcards)["path"]
    return f"{OUTPUT}/{wildcards.slide}/fetched" if is_elsewhere(wildcards.slide) else path


def slide_and_source(wildcards):
    """The same, with the URL of one that lies elsewhere: a row that names another slide makes this one new."""
    slide = slide_argument(wildcards)
    return [slide, "--source", row(wildcards)["path"]] if is_elsewhere(wildcards.slide) else slide


def row_file(column):
    """An input function: the file that the slide's row names in ``column``, if there is one.

    Two kinds enter as a param only: a name with {} or <>, which Snakemake would take for a pattern, and a file dated in
    the future, than which no result could be younger.
    """
    return lambda wildcards: [
        path
        for path in [row(wildcards).get(column)]
        if path and not re.search("[{}<>]", path) and not is_dated_ahead(path)
    ]


def state_of(column):
    """A params function: the state of the file that the slide's row names in ``column``, and of what belongs to it."""

    def state(wildcards):
        path = Path(row(wildcards).get(column) or "")
        pixels = sorted(path.with_suffix("").glob("*")) if path.suffix.lower() == ".mrxs" else []
        return state_of_files([path, *pixels])

    return state


def state_of_files(paths):
    """A checksum of sizes and times of those that are there.

    An input that is replaced by a copy with an older date, as `cp -p` and `rsync -a` give it, is another file too, and
    Snakemake looks for younger ones alone.
    """
    found = [os.stat(path) for path in paths if os.path.isfile(path)]
    return hashlib.sha256(repr([(one.st_size, int(one.st_mtime)) for one in found]).encode()).hexdigest()


def is_dated_ahead(path):
    """Whether the clock that wrote a file was ahead of ours."""
    return os.path.exists(path) and os.path.getmtime(path) > time.time()


def store_name(mpp):
    """Name of the image store of a slide at ``mpp``: 0.5 um/px is image-500nm.zarr."""
    return f"image-{round(mpp * 1000)}nm.zarr"


def name_stores(mpps):
    """Name of a store -> its mpp; images of two that are nearly the same would lie in one store, and are refused."""
    named = {}
    for mpp in mpps:
        if named.setdefault(store_name(mpp), mpp) != mpp:
            other = named[store_name(mpp)]
            sys.exit(
                f"config: images at {other} and {mpp} um/px would both be {store_name(mpp)}; leave one of them out"
            )
    return named


SMALL_BYTES = 8 << 20
IN_OTHER_FILES = {".mrxs", ".vms", ".vmu", ".dcm"}


def threads_for(wildcards):
    """Threads of a step of the slide: starting several takes longer than reading a small file with one."""
    path = Path(row(wildcards)["path"])
    is_small = path.suffix.lower() not in IN_OTHER_FILES and path.is_file() and path.stat().st_size < SMALL_BYTES
    return 1 if is_small else 4


def intermediate(path):
    """``path``, deleted as soon as nothing needs it if the config says so."""
    return path if config["keep_stores"] else temp(path)


def every_shard(wildcards):
    """The shards of every slide."""
    return shards_in("shards")


def every_proposal_shard(wildcards):
    """The shards of every slide's proposals."""
    return shards_in("proposals")


def shards_in(folder):
    """The shards of every slide in ``folder`` of its results."""
    return [
        f"{OUTPUT}/{slide}/{folder}/{number}-of-{ROWS[slide]['shards']}.parquet"
        for slide in SLIDES
        for number in range(1, ROWS[slide]["shards"] + 1)
    ]


def made_from(wildcards):
    """A params function: all settings that a slide's nuclei depend on.

    A run with other settings that is killed leaves old nuclei beside missing shards. Snakemake does not bring back what
    a file needs that is up to date itself; a param that differs says that it is not.
    """
    model = [json.dumps(config["model"])] if TRAINING else [MODEL["model"], MODEL["sha256"]]
    backbone = [json.dumps({**PRETRAIN, "compare": None})] if TRAINING and PRETRAINING else []
    return [*slide_settings(wildcards), *model, MODEL["provider"], *backbone]


def slide_settings(wildcards):
    """What the image of a slide, and the way in which it is cut, depend on."""
    cells = [row(wildcards).get(column) for column in ("path", "mpp", "roi", "shards")]
    return [*cells, *(config[name] for name in ("mpp", "max_corrupt"))]


def shards(wildcards):
    """Names of the shards that detection of a slide is cut into: 1-of-n to n-of-n."""
    n_shards = row(wildcards)["shards"]
    return [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]


check_config()
OUTPUT = config["output"]
MPP_OF_STORE = name_stores([config["mpp"], *config["extra_mpps"]])


pathvars:
    results=OUTPUT,


SHEET, RESOLVED_MODEL = Path(OUTPUT, "sheet.json"), Path(OUTPUT, "model.json")
TRAINING = training_config()
if workflow.is_main_process:  # the jobs of a cluster read what the main process found
    record(Path(OUTPUT, "run_config.yaml"), yaml.safe_dump(dict(config), allow_unicode=True))
    rows = [
        {**each, "shards": each.get("shards") or config["shards"]}
        for each in resolve("sheet", "--check", config["slides"])
    ]
    SHEET = record(SHEET, json.dumps(rows, indent=1, ensure_ascii=False))
    RESOLVED_MODEL = record(RESOLVED_MODEL, json.dumps(resolve_model(), indent=1, ensure_ascii=False))

MODEL = json.loads(RESOLVED_MODEL.read_text(encoding="utf-8"))
ROWS = {each["slide_id"]: each for each in json.loads(SHEET.read_text(encoding="utf-8"))}
SLIDES = list(ROWS)
STORE = store_name(config["mpp"])


# A slide is any folder's name, not one of SLIDES: matching thousands of alternatives would take minutes; `row` objects.
wildcard_constraints:
    slide="[^/]+",
    shard=r"\d+-of-\d+",
