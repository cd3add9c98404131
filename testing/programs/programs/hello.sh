# The main example of the README: ipcmk and Perl exchange messages.
sh "$PROGRAMS/hello.sh"
