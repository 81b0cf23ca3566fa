"""The wheel is complete: without the repository, it runs single slides, and the workflow in a
study's folder.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest
from PIL import Image
from workflow_runs import (
    draw_one_slide,
    draw_stained_slide,
    enlarge,
    snakemake_command,
    write_config,
)

from muse_pipeline.cli.main import main
from muse_pipeline.cohort.sheet import read_sheet
from muse_pipeline.cohort.study import find_workflow
from muse_pipeline.viewer.page import write_viewer

TOP = Path(__file__).parents[2]
SOURCES = "muse_pipeline", "workflow", "config"
LARGEST_WHEEL_MB = 29
NAMELESS_USER = 54321
VIEWED = "index.html", "viewer.js", "openseadragon.min.js", "nuclei/0_0.js", "tiles/0/0_0.jpg"
RESULTS = (
    "nuclei.parquet",
    "nuclei.geojson.gz",
    "tissue.npz",
    "colour.json",
    "summary.json",
    "density.png",
)


def test_a_study_has_a_snakefile_config_and_profiles(muse, tmp_path):
    (tmp_path / "slides").mkdir()
    draw_stained_slide(tmp_path / "slides/a.tif", size_px=300, n_nuclei=5)
    shown = muse.ok(f"workflow {tmp_path / 'study'} --slides {tmp_path / 'slides'}")
    assert shown.splitlines()[-2:] == [
        f"{tmp_path / 'study/config/slides.tsv'}: 1 slide",
        "configs to train models: `muse train --list`",
    ]
    assert find_workflow() == TOP / "workflow"
    profiles = [
        f"workflow/profiles/{path.parent.name}/config.yaml"
        for path in TOP.glob("workflow/profiles/*/*.yaml")
    ]
    for name in ("config/config.yaml", "config/README.md", *profiles):
        assert (tmp_path / "study" / name).read_bytes() == (TOP / name).read_bytes()
    written = {
        path.relative_to(tmp_path / "study").as_posix()
        for path in (tmp_path / "study").rglob("*.*")
    }
    assert written == {"config/slides.tsv", "config/config.yaml", "config/README.md", *profiles}
    shown = muse.ok(f"workflow {tmp_path / 'other'}")
    assert (
        shown.splitlines()[-2]
        == f"next: `muse sheet FOLDER --output {tmp_path / 'other/config/slides.tsv'}`"
    )


def test_configs_of_trainings_are_listed(capsys):
    for verb in ("train", "finetune"):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--list"])
        lines = capsys.readouterr().out.splitlines()
        assert ended.value.code == 0
        names = [line.split()[0] for line in lines[:-1] if not line.startswith(" ")]
        assert names == sorted(path.stem for path in (TOP / "config/train").glob("*.yaml"))
        assert str(TOP / "config/train/my_labels.yaml") in lines[-1]


def test_pictures_have_an_mpp_and_a_sheet_is_kept(muse, tmp_path):
    (tmp_path / "slides").mkdir()
    Image.new("RGB", (300, 300), (226, 170, 205)).save(tmp_path / "slides/a.png")
    words = f"workflow {tmp_path / 'study'} --slides {tmp_path / 'slides'}".split()
    muse.ok(*words, "--mpp", 0.5)
    assert [row.mpp for row in read_sheet(tmp_path / "study/config/slides.tsv")] == [0.5]
    for path in (tmp_path / "study").rglob("*.*"):
        if path.name != "slides.tsv":
            path.unlink()
    assert "slides.tsv --add` adds the slides that it lacks" in muse.fails(*words, "--mpp", 0.5)
    assert not (tmp_path / "study/config/config.yaml").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources without the rest of the repository."""
    copy = tmp_path_factory.mktemp("sources")
    for name in (*SOURCES, "snakemake_logger_plugin_muse"):
        shutil.copytree(
            TOP / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "slides.tsv")
        )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, copy)
    build = (
        f"{sys.executable} -m pip wheel {copy} --no-deps --no-build-isolation --no-index".split()
    )
    subprocess.run([*build, "--quiet", "--wheel-dir", str(copy / "dist")], check=True)
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_workflow(wheel):
    assert wheel.stat().st_size < LARGEST_WHEEL_MB * 1e6
    names = set(zipfile.ZipFile(wheel).namelist())
    workflow = [
        path
        for name in SOURCES[1:]
        for path in (TOP / name).rglob("*.*")
        if path.suffix in {".smk", ".yaml"}
    ]
    expected = [TOP / "workflow/Snakefile", TOP / "config/README.md", *workflow]
    assert {
        f"muse_pipeline/deployed/{path.relative_to(TOP).as_posix()}" for path in expected
    } <= names
    data = [
        path
        for path in (TOP / "muse_pipeline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert {path.relative_to(TOP).as_posix() for path in data} <= names


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """``installed(*command)`` runs a program in an environment with the wheel, but without the
    repository.
    """
    here = tmp_path_factory.mktemp("installed") / "environment"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(program, *arguments, cwd=here.parent):
        words = [str(here / "bin" / program), *map(str, arguments)]
        run = subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    subprocess.run(f"{sys.executable} -m venv --without-pip {here}".split(), check=True)
    site = Path(
        call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = f"install --quiet --no-deps --no-index {wheel}".split()
    subprocess.run(
        [*f"{sys.executable} -m pip --python {here / 'bin/python'}".split(), *install], check=True
    )
    assert Path(
        call("python", "-c", "import muse_pipeline; print(muse_pipeline.__file__)")
    ).is_relative_to(site)
    call.environment, call.muse = environment, here / "bin/muse"
    return call


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_alone_runs_slides_and_a_study_and_shows_them_with_the_same_bytes(
    installed, muse, tmp_path
):
    (tmp_path / "slides").mkdir()
    draw_stained_slide(tmp_path / "slides/a.tif", size_px=500, n_nuclei=60)
    installed("muse", "run", "slides/a.tif", "-o", "by_wheel", cwd=tmp_path)
    installed("muse", "workflow", "study", "--slides", "slides", cwd=tmp_path)
    installed("python", "-m", "snakemake", "--cores", 2, cwd=tmp_path / "study")
    muse.ok(f"run {tmp_path / 'slides/a.tif'} -o {tmp_path / 'by_source'}")
    for name in RESULTS:
        expected = (tmp_path / "by_source/a" / name).read_bytes()
        assert (tmp_path / "by_wheel/a" / name).read_bytes() == expected, name
        assert (tmp_path / "study/results/a" / name).read_bytes() == expected, name
    view = f"{installed.muse} view by_wheel/a --port 0".split()
    with subprocess.Popen(
        view, cwd=tmp_path, env=installed.environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            address = server.stdout.readline().strip()
            assert address.endswith("/viewer/index.html")
            served = {name: urlopen(address.replace("index.html", name)).read() for name in VIEWED}
        finally:
            server.terminate()
    page = write_viewer(tmp_path / "by_source/a")
    assert served == {name: (page.parent / name).read_bytes() for name in VIEWED}


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root may make a disk read-only"
)
@pytest.mark.timeout(900)
def test_a_user_without_a_name_runs_the_wheel_on_a_read_only_disk_without_a_network(
    installed, muse, tmp_path
):
    """The container image runs the wheel in this way, with the environment that the Containerfile
    sets.
    """
    isolated = ["unshare", "--mount", "--net", "sh", "-euc"]
    if subprocess.run([*isolated, "true"], check=False).returncode:
        pytest.skip("unshare is not allowed here")
    work = tmp_path / "work"
    (work / "slides").mkdir(parents=True)
    draw_stained_slide(work / "slides/a.tif", size_px=500, n_nuclei=60)
    for path in (work, *work.rglob("*")):
        os.chown(path, NAMELESS_USER, NAMELESS_USER)
    of_image = next(
        line for line in (TOP / "Containerfile").read_text().splitlines() if line.startswith("ENV ")
    )
    settings = of_image.removeprefix("ENV ").replace("/tmp", str(work)).split()
    # The user may read what root has installed, but has no other capabilities.
    rights = " ".join(
        f"--{kind}=-all,+dac_read_search" for kind in ("inh-caps", "ambient-caps", "bounding-set")
    )
    user = f"setpriv --reuid {NAMELESS_USER} --regid {NAMELESS_USER} --clear-groups {rights}"
    user += f" env -i PATH={installed.muse.parent}:/usr/bin:/bin TMPDIR={work} {' '.join(settings)}"
    script = f"mount --bind {work} {work}; mount -o remount,bind,ro /; cd {work}; {user} sh -euc "
    steps = (
        "if touch /written; then exit 1; fi",
        "muse workflow study --slides slides",
        "muse run slides/a.tif -o results",
    )
    steps += ("cd study", "python -m snakemake --cores 2")
    run = subprocess.run(
        [*isolated, f"{script} '{'; '.join(steps)}'"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    muse.ok(f"run {work / 'slides/a.tif'} -o {tmp_path / 'by_source'}")
    for name in RESULTS:
        expected = (tmp_path / "by_source/a" / name).read_bytes()
        assert (work / "results/a" / name).read_bytes() == expected, name
        assert (work / "study/results/a" / name).read_bytes() == expected, name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_module_of_the_snakefile_runs_as_snakedeploy_writes_it(tmp_path):
    draw_one_slide(tmp_path, size_px=300, n_nuclei=20)
    write_config(tmp_path)
    lines = (
        'configfile: "config.yaml"',
        "module muse:",
        f"    snakefile: {str(TOP / 'workflow/Snakefile')!r}",
        "    config: config",
    )
    (tmp_path / "Snakefile").write_text("\n".join([*lines, "use rule * from muse", ""]))
    shutil.copytree(TOP / "config", tmp_path / "config")
    shutil.copytree(TOP / "workflow/profiles", tmp_path / "profiles")
    command = f"{sys.executable} -m snakemake --cores 2".split()
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and (tmp_path / "results/report.html").is_file(), (
        run.stdout + run.stderr
    )
    assert "1 slide: 1 ok; see results/report.html" in run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_run_in_an_image(tmp_path):
    """A script in place of Apptainer records the image and runs the command on this machine."""
    draw_one_slide(tmp_path, size_px=300, n_nuclei=20)
    write_config(tmp_path)
    enlarge(tmp_path / "a.tif")
    (tmp_path / "muse-pipeline.sif").touch()
    (tmp_path / "bin").mkdir()
    program = '#!/bin/sh\ncase $1 in exec) ;; *) echo "apptainer version 1.3.4"; exit;; esac\n'
    program += (
        f'echo "$*" >>"{tmp_path}/calls"\nwhile case $1 in *bash|*/sh|sh) false;; esac; do shift;'
        ' done\nexec "$@"\n'
    )
    for name in ("apptainer", "singularity"):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "MUSE_CONTAINER": "muse-pipeline.sif",
    }
    command = [*snakemake_command(), "--sdm", "apptainer"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    calls = (tmp_path / "calls").read_text()
    assert (
        "muse-pipeline.sif" in calls
        and "muse step detect " in calls
        and (tmp_path / "results/report.html").is_file()
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_snakefile_of_a_clone_runs_in_any_folder(tmp_path):
    draw_one_slide(tmp_path, size_px=300, n_nuclei=20)
    (tmp_path / "elsewhere").mkdir()

    def run(*words):
        command = [
            *f"{sys.executable} -m snakemake --snakefile {TOP / 'Snakefile'} --cores 2".split(),
            *words,
        ]
        return subprocess.run(
            command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False
        )

    found = run("--config", "slides=../slides.tsv", "output=made", "csv=True")
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"workflow specific profile {TOP / 'profiles/default'}" in found.stderr
    assert (tmp_path / "elsewhere/made/a/nuclei.csv.gz").is_file()
    found = run()
    assert found.returncode == 1 and "there is no config/config.yaml in this folder" in found.stderr
    assert "config/slides.tsv: cannot be read" in found.stderr
