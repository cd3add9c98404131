// word [CMD...]: says how many bits a word of this program has, and executes the command.

#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	printf("%zu\n", 8 * sizeof(long));
	fflush(stdout);
	if (argc > 1)
		execv(argv[1], argv + 1);
	return argc > 1;
}
