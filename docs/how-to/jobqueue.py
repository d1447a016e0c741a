"""Correct batches on workers that SLURM starts as jobs."""

from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Client

from mnndask import RECOMMENDED, mnn_correct, write_zarr

if __name__ == "__main__":
    cluster = SLURMCluster(
        cores=4,
        processes=1,  # one worker of four threads in each job
        memory="16GB",
        walltime="02:00:00",
        # What a job does first, such as: source /path/to/venv/bin/activate
        job_script_prologue=[],
    )
    cluster.scale(jobs=4)
    shared = Path("shared")  # on a file system that all workers see
    shared.mkdir(exist_ok=True)
    with Client(cluster):
        corrected, _, _ = mnn_correct("a.zarr", "b.zarr", scratch=shared, **RECOMMENDED)
        write_zarr(corrected, "corrected.zarr")
    cluster.close()
