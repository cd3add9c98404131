// ring: the processes of an MPI job pass large and small texts around, over segments of System V if their maps are to be believed.

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 2000, LARGE = 300000 };

static int segments(void)
{
	char line[400];
	int count = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	while (maps && fgets(line, sizeof line, maps))
		count += strstr(line, "SYSV") != NULL;
	if (maps)
		fclose(maps);
	return count;
}

int main(int argc, char **argv)
{
	int me, all, sum = 0;
	static char text[LARGE];
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &me);
	MPI_Comm_size(MPI_COMM_WORLD, &all);
	int next = (me + 1) % all, before = (me + all - 1) % all;
	for (int round = 0; round < ROUNDS; round++) {
		int size = round % 50 ? 100 : LARGE;
		if (me == 0) {
			memset(text, round, (size_t)size);
			MPI_Send(text, size, MPI_CHAR, next, round, MPI_COMM_WORLD);
			memset(text, ~round, (size_t)size);
			MPI_Recv(text, size, MPI_CHAR, before, round, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		} else {
			MPI_Recv(text, size, MPI_CHAR, before, round, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
			MPI_Send(text, size, MPI_CHAR, next, round, MPI_COMM_WORLD);
		}
		if (text[0] != (char)round || text[size - 1] != (char)round)
			MPI_Abort(MPI_COMM_WORLD, 1);
	}
	int mine = me + 1;
	MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
	int count = segments(), least;
	MPI_Reduce(&count, &least, 1, MPI_INT, MPI_MIN, 0, MPI_COMM_WORLD);
	int bad = sum != all * (all + 1) / 2 || (me == 0 && least == 0);
	if (me == 0)
		printf("%d processes, %d rounds, %d segments at least\n", all, ROUNDS, least);
	MPI_Finalize();
	return bad;
}
