#!/bin/sh
# Print the path of a Python 3.11 or newer. Usage: find_python.sh [NAME ...]; the first NAME that runs wins.
# Without names: the versions that freshdb is tested on, the preferred one first.
# A NAME on PATH may be the shim of a version manager and run nothing. pyenv knows where it keeps the program itself.

print_if_it_runs() {
    path=$("$1" -c 'import sys; sys.exit(1) if sys.version_info < (3, 11) else print(getattr(sys, "_base_executable", sys.executable))' \
        2>/dev/null | tail -n 1)
    [ -f "$path" ] && [ -x "$path" ] && echo "$path"
}

[ $# -gt 0 ] || set -- python3.13 python3.12 python3.11 python3.14 python3
for name; do
    print_if_it_runs "$name" && exit
    command -v pyenv >/dev/null || continue
    kept=$(pyenv whence --path "$name" 2>/dev/null | sort -rV | head -n 1)
    [ -n "$kept" ] && print_if_it_runs "$kept" && exit
done
exit 1
