#!/bin/bash

# Parameters
#SBATCH --array=0-4%2
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=90
#SBATCH --wckey=submitit

# setup
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
if ! [ -d /shared/sweep/slurm ]; then
    scontrol update jobid="$job" comment="dist-dash: $(hostname) does not see "/shared/sweep/slurm"; it must be on a file system that all nodes share"
    exit 2
fi
exec >>/shared/sweep/slurm/"${job}_0_log.out" 2>&1
export DIST_DASH_FOLLOWED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/sweep/slurm/%A_%a_%t_log.out --wait=30 --kill-on-bad-exit=0 PYTHON -u -m submitit.core._submit /shared/sweep/slurm


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
facts=$(scontrol show job -o "$job" 2>/dev/null | head -n 1)
PYTHON -m dist_dash.cluster.requeue --status "$status" --facts "$facts" --logs /shared/sweep/slurm
verdict=$?
[ "$verdict" -eq 85 ] || exit "$verdict"
scontrol requeue "$job" && exit 0
echo "dist-dash: Slurm does not requeue job $job; submit the run again to continue" >&2
exit 75

