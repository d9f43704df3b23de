# Read by the scripts of the lab and of the grid: processes that outlive a script, and what it tells while it works.
# Whoever reads it has set `say`, the word that its lines begin with.
# shellcheck shell=sh

export LC_ALL=C

fail() {
    printf '%s: %s\n' "${say:-coppice}" "$*" >&2
    exit 1
}

# directory NAME VALUE LONGEST: prints the directory that variable NAME names, as the programs spell it: desktops are
# known by the paths that they hold open.
directory() {
    case $2 in
        /?*) ;;
        *) fail "$1 is $2, and must be an absolute path" ;;
    esac
    case $2 in
        *[!A-Za-z0-9/._-]* | */../* | */..) fail "$1 is $2: only letters, digits and / . _ - are allowed, without .." ;;
    esac
    real=$(realpath -m -- "$2")
    case $real in
        *[!A-Za-z0-9/._-]*) fail "$1 leads to $real: only letters, digits and / . _ - are allowed" ;;
    esac
    # A unix socket's path holds 107 bytes, and each desktop's begins with this directory.
    [ ${#real} -le "$3" ] ||
        fail "$1 is $real: choose one of at most $3 characters, as desktops keep unix sockets in it"
    printf '%s\n' "$real"
}

# now: the time in milliseconds.
now() { date +%s%3N; }

# process PID: prints "PID START BOOT", which no other process ever has, or fails when there is none.
process() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in parentheses, may hold anything; what follows it are fields 3 and on, the start is field 22.
    # shellcheck disable=SC2086  # fields
    set -- "$1" ${stat##*) }
    [ "$2" != Z ] || return 1 # it has ended, and its parent has not looked yet
    echo "$1 ${21} $(cat /proc/sys/kernel/random/boot_id)"
}

# runs FILE: prints the process id that FILE recorded while that process runs. A number that the system has since
# given to another process is not ours.
runs() {
    recorded=$(cat "$1" 2>/dev/null) || return 1
    pid=${recorded%% *}
    [ -n "$pid" ] && [ "$(process "$pid")" = "$recorded" ] && echo "$pid"
}

# ended WHO SECONDS: waits until that process is no more; fails when the time is over.
ended() {
    deadline=$(($(now) + $2 * 1000))
    while [ "$(process "${1%% *}")" = "$1" ]; do
        [ "$(now)" -lt $deadline ] || return 1
        sleep 0.1
    done
}

# end PID SECONDS: asks the process to end, and makes it once the time is over.
end() {
    who=$(process "$1") || return 0
    kill -TERM "$1" 2>/dev/null || return 0
    if ! ended "$who" "$2"; then
        kill -KILL "$1" 2>/dev/null || return 0
        ended "$who" 5 || fail "process $1 does not end, even when killed: is its disk hanging?"
    fi
}

# desktops DIRECTORY: prints the process ids of the QEMUs with a file of that directory among their arguments: a path
# that begins with it, not one that only contains its name.
desktops() {
    pattern=$(printf '%s/' "$1" | sed 's/\./\\./g')
    for each in /proc/[0-9]*; do
        case $(readlink "$each/exe" 2>/dev/null) in
            */qemu-system-*) ;;
            *) continue ;;
        esac
        if tr '\0' '\n' <"$each/cmdline" 2>/dev/null | grep -q "\\(^\\|[=\",:]\\)$pattern"; then
            echo "${each#/proc/}"
        fi
    done
}

# --- what up.sh of both do -----------------------------------------------------------------------------------
# step NAME WORDS...: one line for a step that is done, with the time it took since the former one.
step() {
    name=$1
    shift
    took=$(($(now) - step_begun))
    printf '%4d.%d s  %-9s %s\n' $((took / 1000)) $((took % 1000 / 100)) "$name" "$*"
    step_begun=$(now)
}

# stopped LOG WORDS...: the end of a log, and what went wrong.
stopped() {
    log=$1
    shift
    echo "--- the last lines of $log:" >&2
    tail -n 20 "$log" >&2
    fail "$@"
}

# claim DIRECTORY MARKER SCRIPTS VARIABLE: takes an empty or new directory, or one that was taken before; the marker
# says that it is to be filled and removed by these scripts. Nobody else is at work there while descriptor 9 is open.
claim() {
    if [ ! -e "$2" ]; then
        if [ -n "$(ls -A "$1" 2>/dev/null)" ]; then
            fail "$1 holds something else: choose another $4, or empty it yourself"
        fi
        mkdir -p "$1" || fail "cannot make $1: choose another $4"
        echo "made by $3/up.sh; $3/down.sh removes this directory" >"$2"
    fi
    chmod 700 "$1" # the admin token is in it
    exec 9>"$1/lock"
    flock -n 9 || fail "another up.sh or down.sh is at work in $1: wait for it"
}

# take_binary DIRECTORY GIVEN VARIABLE ROOT: sets `binary` and `words`: the program that VARIABLE gave, or one that is
# built from ROOT.
take_binary() {
    binary=$2
    if [ -n "$binary" ]; then
        [ -x "$binary" ] || fail "$3 is $binary, which is no program"
        words="took $binary"
        return
    fi
    [ -t 2 ] && quiet='' || quiet=-q
    echo '        … building coppice (the first time takes minutes)'
    # shellcheck disable=SC2086  # no word, or one
    (cd "$4" && cargo build $quiet --release --locked --bin coppice --message-format json-render-diagnostics) \
        </dev/null 9>&- >"$1/build.json" ||
        fail 'cargo could not build coppice; its words are above'
    binary=$(sed -n 's/.*"executable":"\([^"]*\/coppice\)".*/\1/p' "$1/build.json" | tail -n 1)
    [ -x "$binary" ] || fail "cargo built coppice, and it is not where cargo says: '$binary'"
    # shellcheck disable=SC2034  # for whoever called
    words="built $binary"
}

# count POOL FIELD LOG: that figure of a pool, from the status as JSON; its object is flat, in whatever order.
count() {
    coppice status --json 2>"$3" 9>&- | tr -d ' \n\t' |
        grep -o "{[^{}]*\"name\":\"$1\"[^{}]*\"desired\":[^{}]*}\|{[^{}]*\"desired\":[^{}]*\"name\":\"$1\"[^{}]*}" |
        sed -n "s/.*\"$2\":\\([0-9][0-9]*\\).*/\\1/p"
}
