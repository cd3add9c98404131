# Signal handlers in, before and after calls: what they see, what they may do, and that nothing is lost.
set -eu
for mode in report asleep fault; do
	"$FETCHED/bin/signals" "$mode"
done
"$FETCHED/bin/signals" storm "${SIGNALS_SECONDS:-5}"
# A call of ours begins long before it sleeps; the kernel's is one instruction.
early=early
# By the trap too a call is one instruction.
[[ $DOOR != kernel && $DOOR != trap ]] || early=
"$FETCHED/bin/moment" $early
