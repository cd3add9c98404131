# Open MPI, whose processes on one machine pass messages through segments of System V.
set -eu
export OMPI_MCA_plm_rsh_agent=false OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun --oversubscribe -np 3 --mca shmem sysv --mca btl self,vader --mca btl_vader_single_copy_mechanism none "$FETCHED/bin/mpi/ring"
# Nothing is left.
[[ $(ipcs -m | grep -c ^0x) == 0 ]] || { ipcs -m; exit 1; }
