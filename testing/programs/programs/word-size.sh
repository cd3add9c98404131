# 32-bit programs run undisturbed, and what they start is served again.
set -eu
# is WHAT EXPECTED GOT
is() { [[ $2 == "$3" ]] || { echo "FAILED $1: expected '$2', got '$3'"; exit 1; }; }
word=$FETCHED/bin/word word32=$FETCHED/bin/32/word
is 'words' $'64\n32\n64' "$("$word" "$word32" "$word" 2>&1)"
id=$(ipcmk -Q | grep -o '[0-9]*$')
is 'a 64-bit program started by a 32-bit one' "$id" "$("$word32" /usr/bin/lsipc -q -r --noheadings -o ID 2>&1 | tail -n 1)"
ipcrm -q "$id"
