#!/bin/bash
#SBATCH --ntasks=5 --cpus-per-task=4 --mem-per-cpu=4G --time=02:00:00
# source /path/to/venv/bin/activate
shared=$SLURM_SUBMIT_DIR/dask-$SLURM_JOB_ID && mkdir "$shared"
trap 'kill $(jobs -p); rm -rf "$shared"' EXIT
dask scheduler --scheduler-file "$shared/scheduler.json" &
srun --ntasks=4 --exact dask worker --scheduler-file "$shared/scheduler.json" \
    --nthreads 4 --memory-limit 14GB &
until [ -s "$shared/scheduler.json" ]; do sleep 1; done
mnndask correct a.zarr b.zarr --recommended -o corrected.zarr \
    --scheduler-file "$shared/scheduler.json" --scratch "$shared"
