#!/bin/bash

# Parameters
#SBATCH --job-name=cpu
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1440
#SBATCH --wckey=submitit

# setup
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
if ! [ -d /shared/cpu/slurm ]; then
    scontrol update jobid="$job" comment="dist-dash: $(hostname) does not see "/shared/cpu/slurm"; it must be on a file system that all nodes share"
    exit 2
fi
exec >>/shared/cpu/slurm/"${job}_0_log.out" 2>&1
export DIST_DASH_FOLLOWED=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/cpu/slurm/%j_%t_log.out --wait=30 --kill-on-bad-exit=0 PYTHON -u -m submitit.core._submit /shared/cpu/slurm


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
facts=$(scontrol show job -o "$job" 2>/dev/null | head -n 1)
PYTHON -m dist_dash.cluster.requeue --status "$status" --facts "$facts" --logs /shared/cpu/slurm
verdict=$?
[ "$verdict" -eq 85 ] || exit "$verdict"
scontrol requeue "$job" && exit 0
echo "dist-dash: Slurm does not requeue job $job; submit the run again to continue" >&2
exit 75

