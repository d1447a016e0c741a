"""What is released: its version, files and requirements, and what ci/release refuses."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

if not (ROOT / "ci").is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

IN_CONDA = {"dask": "dask-core", "matplotlib": "matplotlib-base"}  # dask-core and numpy are dask[array]
FORMS = ("bug", "question")
SCHEMAS = {
    "CITATION.cff": "citation-file-format",
    ".github/ISSUE_TEMPLATE/config.yml": "github-issue-config",
} | {f".github/ISSUE_TEMPLATE/{form}.yml": "github-issue-forms" for form in FORMS}
READY = {  # a tree of which v1.2.3 can be released
    "pyproject.toml": '[project]\nname = "it"\nversion = "1.2.3"\nurls = { Source = "https://x.org" }\n',
    "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.3] - 2026-02-03\n\n- it\n\n## [1.2.2] - 2026-01-01\n\n- it\n",
    "CITATION.cff": 'cff-version: 1.2.0\nversion: 1.2.3\ndate-released: "2026-02-03"\n',
    "ci/conda/recipe.yaml": 'context:\n  version: "1.2.3"\n\npackage:\n  version: ${{ version }}\n',
    "CODE_OF_CONDUCT.md": "Write to them.\n",
    "CONTRIBUTING.md": "a < B, C > d, <https://x.org>\n",
    "SECURITY.md": "Write to them.\n",
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def loaded(name):
    return yaml.safe_load((ROOT / name).read_text())


def needing(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"needs {module}")


def packed(target, folder):
    """Build a sdist or a wheel in a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (out,) = folder.iterdir()
    return out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return packed("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return packed("sdist", tmp_path_factory.mktemp("sdist"))


def files_in(folder):
    paths = (ROOT / folder).rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_all_files_name_the_same_version():
    version = project()["version"]
    assert loaded("CITATION.cff")["version"] == version
    assert loaded("ci/conda/recipe.yaml")["context"]["version"] == version
    sections = re.findall(r"^## \[(.*?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1] == (version, f" - {loaded('CITATION.cff')['date-released']}")


def test_the_license_is_the_same_everywhere():
    license_ = project()["license"]
    assert loaded("CITATION.cff")["license"] == license_
    assert loaded("ci/conda/recipe.yaml")["about"]["license"] == license_


def conda(requirements):
    """Requirements as conda writes them."""
    for one in map(Requirement, requirements):
        assert one.marker is None
        yield f"{IN_CONDA.get(one.name, one.name)} {one.specifier}"


def test_the_recipe_requires_what_the_project_does():
    requirements = loaded("ci/conda/recipe.yaml")["requirements"]
    assert requirements["run"] == ["python >=${{ python_min }}", *conda(project()["dependencies"])]
    extras = project()["optional-dependencies"]
    wanted = [line for extra in ("cluster", "s3", "plot") for line in conda(extras[extra])]
    assert requirements["run_constraints"] == wanted
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert requirements["host"] == ["python ${{ python_min }}.*", "pip", *conda(system)]


def test_the_recipe_has_the_python_and_the_command_of_the_project():
    recipe = loaded("ci/conda/recipe.yaml")
    assert f">={recipe['context']['python_min']}" == project()["requires-python"]
    commands = [f"{name} = {target}" for name, target in project()["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == commands
    assert recipe["about"]["summary"] == project()["description"]


@needing("hatchling")
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = Parser().parsestr(file.read(f"mnndask-{project()['version']}.dist-info/METADATA").decode())
    package = files_in("mnndask")
    assert {"mnndask/__init__.py", "mnndask/py.typed", "mnndask/pl/page.html"} <= package
    info = f"mnndask-{project()['version']}.dist-info/"
    parts = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert names == package | {info + part for part in parts}
    assert metadata["Version"] == project()["version"]
    assert metadata["License-Expression"] == project()["license"]


@needing("hatchling")
def test_the_sdist_holds_tests_that_run_without_a_checkout(sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    left_out = {"tests/test_ci.py", "tests/test_release.py"} | files_in("tests/showcase")
    single = {
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "pyproject.toml",
    }
    assert names == (files_in("mnndask") | files_in("tests") | single) - left_out


LINK = re.compile(r"!?\[[^\]]*\]\(([^)]+)\)")


def test_links_of_the_readme_lead_to_files_of_the_repository():
    targets = LINK.findall((ROOT / "README.md").read_text())
    assert len(targets) > 10
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).is_file(), target


@needing("hatchling")
@needing("hatch_fancy_pypi_readme")
def test_links_of_the_readme_work_on_the_index_too(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        readme = archive.read(name).decode()
    targets = LINK.findall(readme)
    assert len(targets) == len(LINK.findall((ROOT / "README.md").read_text()))
    assert all(target.startswith("https://") for target in targets)
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert picture.endswith(f"/raw/v{project()['version']}/notebooks/before-after.png")


@needing("hatchling")
@needing("twine")
def test_the_index_would_take_the_packages(wheel, sdist):
    command = [sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


@needing("check_jsonschema")
@pytest.mark.parametrize("name", SCHEMAS)
def test_files_for_the_host_are_valid(name):
    command = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[name]}", str(ROOT / name)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_example_of_the_bug_form_runs(tmp_path):
    (example,) = (
        part for part in loaded(".github/ISSUE_TEMPLATE/bug.yml")["body"] if part.get("id") == "example"
    )
    file = tmp_path / "example.py"
    file.write_text(example["attributes"]["value"])
    assert runpy.run_path(str(file))["corrected"].n_obs == 600


def test_hooks_before_a_commit_run_what_lint_runs():
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    wanted = [expanded(shlex.split(line.replace("$(BIN)", ".venv/bin"))) for line in recipe.splitlines()]
    (local,) = loaded(".pre-commit-config.yaml")["repos"]
    assert [command_of(hook) for hook in local["hooks"]] == wanted


def expanded(words):
    """Replace patterns of files by the files."""
    out = []
    for word in words:
        found = (
            sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(word)) if "*" in word else [word]
        )
        assert found
        out += found
    return out


def command_of(hook):
    """What a hook runs if all files have changed."""
    assert hook["language"] == "system"
    command = shlex.split(hook["entry"])
    if not hook.get("pass_filenames", True):
        return command
    wanted = re.compile(hook["files"])
    return command + sorted(name for name in files_in(".github") if wanted.search(name))


def test_nothing_is_published_unless_all_was_checked():
    jobs = loaded(".github/workflows/release.yml")["jobs"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(project()["classifiers"]), re.MULTILINE)
    assert jobs["wheel"]["strategy"]["matrix"]["python"] == [named[0], named[-1]]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    runs = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert runs[0].split()[0] == "ci/release"
    assert runs[-1] == "python -m twine check --strict dist/*"
    may_write = [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})]
    assert may_write == ["publish"]


def test_the_guide_names_every_package():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    packages = {path.parent.name for path in (ROOT / "mnndask").glob("*/__init__.py")}
    first_cells = "".join(re.findall(r"^\|(.*?)\|", guide, re.MULTILINE))
    assert packages <= set(re.findall(r"`(\w+)`", first_cells))


def test_the_guide_names_files_that_are_there():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?<![\w.])(?:\.github|\.ci|ci|docs|mnndask|tests)/[\w./-]*\w", guide))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.fixture
def tree(tmp_path):
    """What ci/release reads, in an order that can be released."""
    for name, text in READY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "ci" / "release", tmp_path / "ci" / "release")
    return tmp_path


def faults(tree, tag="v1.2.3"):
    command = [sys.executable, str(tree / "ci" / "release"), tag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stdout
    assert done.returncode == bool(done.stderr)
    return done.stderr.splitlines()


def test_a_tree_in_order_can_be_released(tree):
    assert faults(tree) == []


def test_a_tag_of_another_version_is_refused(tree):
    assert faults(tree, "v1.2.4") == ["pyproject.toml: version is 1.2.3, the tag is v1.2.4"]
    assert faults(tree, "1.2.3") == ["pyproject.toml: version is 1.2.3, the tag is 1.2.3"]


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("pyproject.toml", "urls = ", "other = ", "has no [project.urls]"),
        ("CHANGELOG.md", "## [1.2.3] - 2026-02-03", "## [1.2.3]", "section [1.2.3] has no date"),
        ("CHANGELOG.md", "2026-02-03", "2026-02-30", "section [1.2.3] has no date"),
        ("CHANGELOG.md", "## [1.2.3] ", "## [1.2.30] ", "has no section [1.2.3]"),
        ("CHANGELOG.md", "02-03\n\n- it", "02-03", "section [1.2.3] is empty"),
        ("CHANGELOG.md", "released]\n", "released]\n\n- more\n", "section [Unreleased] is not empty"),
        ("CITATION.cff", "\nversion: 1.2.3", "\nversion: 1.2.2", "version is 1.2.2, not 1.2.3"),
        ("CITATION.cff", "2026-02-03", "2026-02-04", "date-released is 2026-02-04, not 2026-02-03"),
        ("CITATION.cff", "date-released", "date", "date-released is None, not 2026-02-03"),
        ("ci/conda/recipe.yaml", "1.2.3", "1.2.2", "version is 1.2.2, not 1.2.3"),
    ],
)
def test_what_does_not_agree_is_refused(tree, name, old, new, said):
    assert READY[name].count(old) == 1
    (tree / name).write_text(READY[name].replace(old, new))
    assert faults(tree) == [f"{name}: {said}"]


@pytest.mark.parametrize("name", [name for name in READY if name != "CHANGELOG.md"])
def test_a_placeholder_is_refused(tree, name):
    (tree / name).write_text(f"{READY[name]}# <CONTACT>\n")
    line = READY[name].count("\n") + 1
    assert faults(tree) == [f"{name}:{line}: <CONTACT> is left"]


@pytest.mark.parametrize("name", READY)
def test_a_missing_file_is_refused(tree, name):
    (tree / name).unlink()
    assert faults(tree) == [f"{name}: is not there"]


def test_every_fault_has_a_line(tree):
    (tree / "SECURITY.md").write_text("<CONTACT> or <REPOSITORY>\n")
    assert faults(tree, "v2") == [
        "pyproject.toml: version is 1.2.3, the tag is v2",
        "SECURITY.md:1: <CONTACT> is left",
        "SECURITY.md:1: <REPOSITORY> is left",
    ]
