"""What CI tests with: the oldest and the newest Python at hand, in environments of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "cp", "dirname", "env", "id", "mkdir", "rm", "sed", "sh", "sort")

if not (ROOT / "ci").is_dir() or not all(map(shutil.which, TOOLS)):
    pytest.skip("needs a checkout, and a shell", allow_module_level=True)

# Runs what it is given, as another version would.
PYTHON = f"""#!/bin/sh
code="$2"
shift 2
exec '{sys.executable}' -c "import platform, sys
sys.version_info, sys.executable = (VERSION, 0), '$0'
platform.python_version = lambda: '%d.%d.%d' % sys.version_info
$code" "$@"
"""
SHIM = '#!/bin/sh\necho "pyenv: $0: command not found" >&2\nexit 127\n'
WITHOUT_VENV = f"#!/bin/sh\nexec '{sys.executable}' -c 'import no_such_module'\n"
UV = '#!/bin/sh\n[ "$*" = "--no-config python find --system 3.12" ] && echo UV_PYTHON || exit 2\n'
PYENV = '#!/bin/sh\n[ "$1" = root ] && echo PYENV_ROOT\n'
MAKE = """#!/bin/sh
echo "make $*"
for word in "$@"; do
  case $word in VENV=*) venv=${word#VENV=} ;; PYTHON=*) python=${word#PYTHON=} ;; esac
done
[ -e "$venv/bin/python" ] || { mkdir -p "$venv/bin" && cp "$python" "$venv/bin/python"; }
"""


def python(version):
    return PYTHON.replace("VERSION", version.replace(".", ", "))


def put(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def bin(tmp_path):
    """The only folder on PATH, as yet without any Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    put(folder / "chromium", "")
    return folder


@pytest.fixture
def checkout(tmp_path):
    """What CI needs of a checkout."""
    folder = tmp_path / "check out"
    for name in ("pyproject.toml", "ci/python", ".ci/run"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    put(folder / "ci" / "lowest", "#!/bin/sh\necho lowest\n")
    return folder


@pytest.fixture
def run(bin, checkout):
    """Function that runs a script of the checkout; gives its exit status, stdout and stderr."""

    def run(*command):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYENV", "UV"))}
        done = subprocess.run(
            ["bash", str(checkout / command[0]), *command[1:]],
            env=env | {"PATH": str(bin)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    return run


def test_only_what_runs_is_believed(bin, run):
    for name in ("python3.13", "python3", "python"):
        put(bin / name, SHIM)
    put(bin / "python3.12", WITHOUT_VENV)
    expected = put(bin / "python3.11", python("3.11"))
    assert run("ci/python", "newest") == (0, [expected], [])
    assert run("ci/python", "oldest") == (0, [expected], [])


def test_a_name_without_version_is_asked_for_it(bin, run):
    newest = put(bin / "python3", python("3.13"))
    oldest = put(bin / "python", python("3.12"))
    assert run("ci/python", "newest")[1] == [newest]
    assert run("ci/python", "oldest")[1] == [oldest]


def test_versions_that_are_not_named_do_not_count(bin, run):
    put(bin / "python3.14", python("3.14"))
    put(bin / "python3.10", python("3.10"))
    put(bin / "python3", python("3.14"))
    status, out, err = run("ci/python", "newest")
    assert (status, out) == (1, [])
    assert err == ["none of Python 3.13, 3.12, 3.11 is on this machine"]


def test_what_pyenv_has_need_not_be_switched_on(bin, run, tmp_path):
    put(bin / "python3.13", SHIM)
    versions = tmp_path / "pyenv" / "versions"
    for patch in ("3.13.2", "3.13.10", "3.12.1"):
        put(versions / patch / "bin" / "python", python(patch[:4]))
    put(bin / "pyenv", PYENV.replace("PYENV_ROOT", str(tmp_path / "pyenv")))
    assert run("ci/python", "newest")[1] == [str(versions / "3.13.10" / "bin" / "python")]


def test_what_uv_has_is_found(bin, run, tmp_path):
    put(bin / "python3.11", python("3.11"))
    expected = put(tmp_path / "uv" / "python", python("3.12"))
    put(bin / "uv", UV.replace("UV_PYTHON", expected))
    assert run("ci/python", "newest")[1] == [expected]


def test_the_suite_runs_on_the_oldest_and_the_newest(bin, run):
    put(bin / "make", MAKE)
    oldest, newest = (put(bin / f"python{version}", python(version)) for version in ("3.11", "3.13"))
    put(bin / "python3", python("3.12"))
    status, out, err = run(".ci/run")
    assert (status, err) == (0, [])
    assert [line for line in out if "testing" not in line] == [
        f"make VENV=.venv PYTHON={oldest} lint",
        f"make VENV=.venv PYTHON={oldest} .venv/test.stamp",
        "make VENV=.venv test",
        f"make VENV=.venv-newest PYTHON={newest} .venv-newest/test.stamp",
        "make VENV=.venv-newest test",
        "make VENV=.venv-newest docs",
        "make VENV=.venv-newest showcase",
        "lowest",
    ]
    told = [line for line in out if "testing" in line]
    assert [line.split()[3] for line in told] == ["3.11.0", "3.13.0"]
    assert all("anndata" in line and "zarr" in line for line in told)


def test_one_line_says_that_there_is_nothing_newer(bin, run):
    put(bin / "make", MAKE)
    put(bin / "python3.11", python("3.11"))
    put(bin / "python3.13", SHIM)
    status, out, err = run(".ci/run")
    assert (status, err) == (0, [])
    assert out[-4:] == [
        "no Python newer than 3.11 is on this machine: tests with the newest are left out",
        "make VENV=.venv docs",
        "make VENV=.venv showcase",
        "lowest",
    ]
    assert "make VENV=.venv test" in out


def test_an_environment_of_another_python_is_left_alone(bin, checkout, run):
    put(bin / "make", MAKE)
    put(bin / "python3.11", python("3.11"))
    put(checkout / ".venv" / "bin" / "python", python("3.13"))
    status, out, _ = run(".ci/run")
    assert status == 0
    assert "make VENV=.venv-oldest test" in out
    assert "make VENV=.venv test" not in out


def test_each_python_has_a_job():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        text.removeprefix("Programming Language :: Python :: ")
        for text in project["classifiers"]
        if "Python :: 3." in text
    ]
    assert project["requires-python"] == f">={named[0]}"
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert jobs["tests"]["strategy"]["matrix"]["python"] == named
    runs = {
        name: [step["run"] for step in job["steps"] if "run" in step and "if" not in step]
        for name, job in jobs.items()
    }
    assert runs == {
        "lint": ["make lint"],
        "tests": ["make test"],
        "lowest": ["ci/lowest"],
        "showcase": ["make docs", "make showcase"],
    }
    pythons = {
        name: step["with"]["python-version"]
        for name, job in jobs.items()
        for step in job["steps"]
        if "python-version" in step.get("with", {})
    }
    assert pythons == {
        "lint": named[0],
        "tests": "${{ matrix.python }}",
        "lowest": named[0],
        "showcase": named[-1],
    }


def test_tests_that_are_packed_need_nothing_that_is_not():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["hatch"]["build"]["targets"]["sdist"]
    assert {"/mnndask", "/tests"} <= set(packed["include"])
    assert set(packed["exclude"]) == {"/tests/showcase", "/tests/test_ci.py", "/tests/test_release.py"}
    elsewhere = re.compile(r"^(from|import) (benchmarks|notebooks|tests)\b", re.MULTILINE)
    for file in (ROOT / "tests").rglob("*.py"):
        if "showcase" not in file.parts:
            assert not elsewhere.search(file.read_text()), file
