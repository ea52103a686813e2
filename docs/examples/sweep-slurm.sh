#!/usr/bin/env bash
# A sweep as a Slurm job array: each task computes one shard of it, into a file of its own.
#
#   sbatch --export=ALL,MODEL=/models/llama,PROMPTS=/data/prompts.jsonl docs/examples/sweep-slurm.sh
#   sbatch --dependency=afterok:JOBID --wrap 'layerskip merge results/shard-*.jsonl --output results/sweep.jsonl'
#   sbatch --array=3,5 docs/examples/sweep-slurm.sh        # tasks that failed, again: they go on where their files end
#
#SBATCH --job-name=layerskip-sweep
#SBATCH --array=1-8
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
# Times are worth something where nobody else is on the node.
#SBATCH --exclusive
# A task that is preempted is started again, and goes on.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=layerskip-sweep-%A_%a.log
set -euo pipefail

# As many as --array counts. Not SLURM_ARRAY_TASK_COUNT, which is another when a few tasks run again.
shards=8
results=${RESULTS:-results}
mkdir -p "$results"

options=(--threads "${SLURM_CPUS_PER_TASK:-1}" --shard "$SLURM_ARRAY_TASK_ID/$shards")
[ -z "${MODEL:-}" ] || options+=(--model "$MODEL")
[ -z "${PROMPTS:-}" ] || options+=(--prompts "$PROMPTS")

# More options of the sweep, such as --exit-layers, may stand behind the script's name on sbatch's command line.
exec layerskip sweep "${options[@]}" --output "$results/shard-$SLURM_ARRAY_TASK_ID.jsonl" "$@"
