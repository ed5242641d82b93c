#!/bin/bash

# Parameters
#SBATCH --account=00123
#SBATCH --comment='a b'
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=8
#SBATCH --exclude='n[13,27]'
#SBATCH --exclusive
#SBATCH --gres=gpu:4
#SBATCH --job-name=gpu
#SBATCH --mail-type=END
#SBATCH --mem=492032MB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=workshop
#SBATCH --signal=USR2@300
#SBATCH --time=2160
#SBATCH --wckey=submitit

# setup
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
if ! [ -d /shared/gpu/slurm ]; then
    scontrol update jobid="$job" comment="dist-dash: $(hostname) does not see "/shared/gpu/slurm"; it must be on a file system that all nodes share"
    exit 2
fi
exec >>/shared/gpu/slurm/"${job}_0_log.out" 2>&1
export DIST_DASH_FOLLOWED=1
module load cuda/12.4 || { echo 'dist-dash: a module cannot be loaded' >&2; exit 2; }
module load 'gcc (12)' || { echo 'dist-dash: a module cannot be loaded' >&2; exit 2; }
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"
export NCCL_SOCKET_IFNAME=ib0
export GREETING='it'"'"'s $HOME'
export OMP_NUM_THREADS=4
ulimit -n 65536

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/gpu/slurm/%j_%t_log.out --wait=30 --kill-on-bad-exit=0 --cpus-per-task=8 --mpi=none '--label=a b' apptainer exec --nv image.sif /opt/env/bin/python -u -m submitit.core._submit /shared/gpu/slurm


# teardown
status=$?
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
facts=$(scontrol show job -o "$job" 2>/dev/null | head -n 1)
apptainer exec --nv image.sif /opt/env/bin/python -m dist_dash.cluster.requeue --status "$status" --facts "$facts" --logs /shared/gpu/slurm
verdict=$?
[ "$verdict" -eq 85 ] || exit "$verdict"
scontrol requeue "$job" && exit 0
echo "dist-dash: Slurm does not requeue job $job; submit the run again to continue" >&2
exit 75

