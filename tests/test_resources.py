"""Memory and processors that a process may use: fake trees of control groups, jobs, limits of a shell."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from mnndask._cgroups import groups, memory_left
from mnndask._resources import FreeMemory, free_memory, usable_processors
from mnndask._threads import effective_n_jobs
from mnndask.engine.tasks import threads

MB = 2**20
MACHINE = SimpleNamespace(total=64_000 * MB, available=50_000 * MB)
NONE_V1 = 2**63 - 4096  # as the kernel says that there is no limit


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """A machine with 64 GB and 64 processors."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: MACHINE)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def process(tmp_path):
    """Function that writes a process's membership, mounts and groups; it gives the folder of the process."""

    def write(membership, mounts, files):
        lines = [
            f"{i} 1 0:{i} {root} {tmp_path}/{point} rw,nosuid shared:9 - {kind}"
            for i, (root, point, kind) in enumerate(mounts)
        ]
        folder = tmp_path / "proc"
        folder.mkdir()
        (folder / "cgroup").write_text(membership)
        (folder / "mountinfo").write_text("\n".join(lines) + "\n")
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return folder

    return write


V2 = ("/", "sys/fs/cgroup", "cgroup2 cgroup2 rw,nsdelegate")
V1_MEMORY = ("/", "sys/fs/cgroup/memory", "cgroup cgroup rw,memory")


def v2(folder, limit, used, cached=0, high="max"):
    at = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{at}/memory.max": limit,
        f"{at}/memory.high": high,
        f"{at}/memory.current": used,
        f"{at}/memory.stat": f"anon 1\ninactive_file {cached}\nactive_file 7",
    }


def v1(folder, limit, used, cached=0, above=NONE_V1):
    at, least = f"sys/fs/cgroup/memory/{folder}".rstrip("/"), min(limit, above)
    return {
        f"{at}/memory.limit_in_bytes": limit,
        f"{at}/memory.usage_in_bytes": used,
        f"{at}/memory.stat": f"cache 1\nhierarchical_memory_limit {least}\ntotal_inactive_file {cached}",
    }


NESTED = "0::/user.slice/user-7.slice/job.scope\n"
V1_NESTED = "9:cpu,cpuacct:/job\n4:memory:/slurm/uid_7/job_3/step_0\n1:name=systemd:/x\n0::/\n"
GROUPS = {
    "v2, own limit": (
        NESTED,
        [V2],
        v2("user.slice/user-7.slice/job.scope", 3000 * MB, 500 * MB, 100 * MB),
        (2600 * MB, "/user.slice/user-7.slice/job.scope"),
    ),
    "v2, limit of a group above": (
        NESTED,
        [V2],
        v2("user.slice/user-7.slice/job.scope", "max", 500 * MB)
        | v2("user.slice/user-7.slice", 4000 * MB, 3000 * MB)
        | v2("user.slice", 9000 * MB, 3000 * MB),
        (1000 * MB, "/user.slice/user-7.slice"),
    ),
    "v2, from which on it is slowed down": (
        NESTED,
        [V2],
        v2("user.slice/user-7.slice/job.scope", 3000 * MB, 500 * MB, high=2000 * MB),
        (1500 * MB, "/user.slice/user-7.slice/job.scope"),
    ),
    "v2, in a container": (
        "0::/\n",
        [V2],
        v2("", 3000 * MB, 1000 * MB),
        (2000 * MB, "/"),
    ),
    "v2, outside of the container's name space": (
        "0::/../../job.scope\n",
        [V2],
        v2("", 3000 * MB, 1000 * MB),
        (2000 * MB, "/"),
    ),
    "v1, own limit": (
        V1_NESTED,
        [V1_MEMORY],
        v1("slurm/uid_7/job_3/step_0", 3000 * MB, 500 * MB, 100 * MB),
        (2600 * MB, "/slurm/uid_7/job_3/step_0"),
    ),
    "v1, limit of the job around the step": (
        V1_NESTED,
        [V1_MEMORY],
        v1("slurm/uid_7/job_3/step_0", NONE_V1, 500 * MB, above=3000 * MB)
        | v1("slurm/uid_7/job_3", 3000 * MB, 700 * MB),
        (2300 * MB, "/slurm/uid_7/job_3"),
    ),
    "v1, in a container with the host's paths": (
        "4:memory:/docker/abc\n",
        [("/docker/abc", "sys/fs/cgroup/memory", "cgroup cgroup rw,memory")],
        v1("", 3000 * MB, 1000 * MB),
        (2000 * MB, "/docker/abc"),
    ),
    "hybrid": (
        V1_NESTED,
        [("/", "sys/fs/cgroup/unified", "cgroup2 cgroup2 rw"), V1_MEMORY],
        v1("slurm/uid_7/job_3/step_0", NONE_V1, 700 * MB, above=3000 * MB)
        | v1("slurm/uid_7/job_3", 3000 * MB, 700 * MB),
        (2300 * MB, "/slurm/uid_7/job_3"),
    ),
    "in a folder with a space": (
        "0::/my job\n",
        [("/", "sys/fs/control\\040groups", "cgroup2 none rw")],
        {
            "sys/fs/control groups/my job/memory.max": 900 * MB,
            "sys/fs/control groups/my job/memory.current": MB,
        },
        (899 * MB, "/my job"),
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_the_least_that_the_groups_of_a_process_leave_is_free(case, process):
    membership, mounts, files, (left, name) = GROUPS[case]
    assert free_memory(process(membership, mounts, files)) == FreeMemory(left, f"cgroup {name}")


NO_LIMIT = {
    "no files": (NESTED, [V2], {}),
    "v2": (NESTED, [V2], v2("user.slice", "max", 500 * MB)),
    "v1": (V1_NESTED, [V1_MEMORY], v1("slurm/uid_7/job_3/step_0", NONE_V1, 500 * MB)),
    "more than the machine has": (NESTED, [V2], v2("user.slice", 2**40, 500 * MB)),
    "of another group": (NESTED, [V2], v2("user.slice/user-8.slice", 3000 * MB, 500 * MB)),
    "other controllers": ("9:cpu:/job\n", [V1_MEMORY], v1("job", 3000 * MB, 500 * MB)),
}


@pytest.mark.parametrize("case", NO_LIMIT)
def test_without_a_limit_the_machines_memory_is_free(case, process):
    assert free_memory(process(*NO_LIMIT[case])) == FreeMemory(MACHINE.available, "free memory")


def test_without_groups_the_machines_memory_and_processors_are_free(tmp_path):
    assert free_memory(tmp_path) == FreeMemory(MACHINE.available, "free memory")
    assert usable_processors(tmp_path) == 64


def test_a_group_that_is_full_leaves_a_byte(process):
    folder = process("0::/a\n", [V2], v2("a", 3000 * MB, 3001 * MB))
    assert free_memory(folder) == FreeMemory(1, "cgroup /a")


def test_mounts_are_read_once(process):
    folder = process("0::/a\n", [V2], v2("a", 3000 * MB, 1000 * MB))
    assert len(groups("memory", folder)) == 2
    (folder / "mountinfo").unlink()
    assert list(memory_left(MACHINE.total, folder)) == [(2000 * MB, "/a")]


# ---------------------------------------------------------------- processors


@pytest.mark.parametrize(
    ("membership", "mounts", "files", "n"),
    [
        (NESTED, [V2], {"sys/fs/cgroup/user.slice/cpu.max": "250000 100000"}, 3),
        (NESTED, [V2], {"sys/fs/cgroup/user.slice/cpu.max": "max 100000"}, 64),
        (
            V1_NESTED,
            [("/", "sys/fs/cgroup/cpu,cpuacct", "cgroup cgroup rw,cpu,cpuacct")],
            {
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": 200_000,
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
            },
            2,
        ),
        (
            V1_NESTED,
            [("/", "sys/fs/cgroup/cpu", "cgroup cgroup rw,cpu")],
            {
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": -1,
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": 100_000,
            },
            64,
        ),
    ],
    ids=["v2", "v2-none", "v1", "v1-none"],
)
def test_quotas_of_groups_limit_the_processors(membership, mounts, files, n, process):
    assert usable_processors(process(membership, mounts, files)) == n


@pytest.mark.parametrize(
    ("job", "n"),
    [
        ({"SLURM_CPUS_PER_TASK": "4"}, 4),
        ({"SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16"}, 4),
        ({"SLURM_CPUS_ON_NODE": "16"}, 16),
        ({"SLURM_CPUS_ON_NODE": "100"}, 64),
        ({"SLURM_CPUS_PER_TASK": "many"}, 64),
    ],
)
def test_a_job_has_the_processors_that_slurm_says(job, n, tmp_path):
    assert usable_processors(tmp_path, job | {"SLURM_JOB_ID": "7"}) == n
    assert usable_processors(tmp_path, job) == 64, "outside of a job"


def test_affinity_limits_the_processors(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5})
    assert usable_processors(tmp_path) == 2


def test_no_more_threads_than_processors_that_may_be_used_unless_asked_for(monkeypatch):
    """Of dask's threads, too."""
    monkeypatch.setattr("joblib.effective_n_jobs", lambda n: n if n > 0 else 65 + n)
    assert [effective_n_jobs(n) for n in (None, -1, -2)] == [64, 64, 63]
    monkeypatch.setattr("mnndask.engine.tasks.CPU_COUNT", 64)
    assert threads(None) == {}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert [effective_n_jobs(n) for n in (None, -1, -2, -9, 5)] == [3, 3, 2, 1, 5]
    assert [threads(n) for n in (None, 5)] == [{"num_workers": 3}, {"num_workers": 5}]


# ---------------------------------------------------------------- jobs and shells


@pytest.mark.parametrize(
    ("job", "size", "name"),
    [
        ({"SLURM_MEM_PER_NODE": "4000"}, 4000, "SLURM_MEM_PER_NODE"),
        ({"SLURM_MEM_PER_NODE": "4G"}, 4096, "SLURM_MEM_PER_NODE"),
        (
            {"SLURM_MEM_PER_CPU": "1500", "SLURM_CPUS_ON_NODE": "2"},
            3000,
            "SLURM_MEM_PER_CPU x SLURM_CPUS_ON_NODE",
        ),
        (
            {"SLURM_MEM_PER_CPU": "1500", "SLURM_CPUS_PER_TASK": "3"},
            4500,
            "SLURM_MEM_PER_CPU x SLURM_CPUS_PER_TASK",
        ),
    ],
)
def test_a_job_has_the_memory_that_slurm_says_less_what_is_used(job, size, name, tmp_path):
    """SLURM enforces it on some clusters; on the others, jobs beside this one have the rest."""
    free = free_memory(tmp_path, job | {"SLURM_JOB_ID": "7"})
    assert free.limited_by == name
    assert free.size == pytest.approx(size * MB - psutil.Process().memory_info().rss, abs=5 * MB)
    assert free_memory(tmp_path, job).limited_by == "free memory", "outside of a job"


@pytest.mark.parametrize("text", ["0", "", "all", "4X"])
def test_all_of_a_node_is_no_limit(text, tmp_path):
    job = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": text, "SLURM_MEM_PER_CPU": text}
    assert free_memory(tmp_path, job).limited_by == "free memory"


@pytest.mark.parametrize(("kind", "option"), [("RLIMIT_AS", "-v"), ("RLIMIT_DATA", "-d")])
def test_limits_of_the_shell_count(kind, option, tmp_path, monkeypatch):
    module = pytest.importorskip("resource")
    used = psutil.Process().memory_info()
    now = {"-v": used.vms, "-d": used.data}[option]

    def limits(asked):
        most = now + 700 * MB if asked == getattr(module, kind) else module.RLIM_INFINITY
        return most, module.RLIM_INFINITY

    monkeypatch.setattr(module, "getrlimit", limits)
    free = free_memory(tmp_path)
    assert free.limited_by == f"ulimit {option}"
    assert free.size == pytest.approx(700 * MB, abs=20 * MB)
