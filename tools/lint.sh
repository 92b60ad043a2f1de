#!/bin/sh
# All checks of the source, each named, all of them run; exit 1 if one found something.
#
#   tools/lint.sh BUILD      BUILD: a configured and built folder (compile_commands.json, plugins)
#
# clang-tidy remembers under BUILD/lint which files were clean, by the content of the file, of every header and
# of .clang-tidy, so that a second run costs what has changed.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:-build}
jobs=${JOBS:-$(nproc)}
failed=

check()
{
    name=$1
    shift
    printf 'lint: %s\n' "$name"
    if ! "$@"; then
        failed="$failed $name"
    fi
}

files()
{
    git ls-files -co --exclude-standard -- "$@" | while read -r path; do
        if [ -f "$path" ]; then
            echo "$path"
        fi
    done
}

format()
{
    files '*.c' '*.h' | xargs clang-format --dry-run -Werror
}

tidy()
{
    mkdir -p "$build/lint"
    headers=$( (cat .clang-tidy; files '*.h' | xargs cat) | sha256sum | cut -c1-16)
    export build headers
    # shellcheck disable=SC2016 # the inner shell expands them
    files '*.c' | grep -E '^(sdk|kernel|broker|plugins|daemon|client|cli|bench|tests|tools)/' |
        while read -r path; do
            if grep -qF "/$path\"" "$build/compile_commands.json"; then
                echo "$path"
            fi
        done | xargs -P "$jobs" -I{} sh -c '
            stamp=$build/lint/$(cat "$1" | sha256sum | cut -c1-24)-$headers
            [ -e "$stamp" ] && exit 0
            clang-tidy --quiet -p "$build" "$1" 2> "$stamp.err" && : > "$stamp"
            status=$?
            if [ $status -ne 0 ]; then grep -v "warnings\? generated\|^Suppressed\|^Use -header" "$stamp.err"; fi
            rm -f "$stamp.err"
            exit $status' tidy {}
}

shell()
{
    { files '*.sh' && echo .ci/run; } | xargs shellcheck
}

spelling()
{
    files '*.md' '*.c' '*.h' '*.py' '*.sh' '*.proto' '*.cfg' '*.yml' Makefile '*.cmake' '*CMakeLists.txt' |
        xargs codespell -I tools/codespell-words.txt
}

# A public header compiles by itself, as C and as C++.
self_contained()
{
    bad=0
    for header in sdk/include/streamit/*.h; do
        name=streamit/${header##*/}
        echo "#include \"$name\"" | gcc -std=gnu11 -Wall -Wextra -Werror -Isdk/include -fsyntax-only -xc - || bad=1
        echo "#include \"$name\"" | g++ -std=c++17 -Wall -Wextra -Werror -Isdk/include -fsyntax-only -xc++ - || bad=1
    done
    return $bad
}

check "clang-format" format
check "layers, self test" /usr/bin/python3 tools/check_layers.py --self-test
check "layers" /usr/bin/python3 tools/check_layers.py
check "house rules, self test" /usr/bin/python3 tools/check_tidy.py --self-test
check "house rules" /usr/bin/python3 tools/check_tidy.py "$build"
check "headers stand alone" self_contained
check "shellcheck" shell
check "codespell" spelling
check "clang-tidy" tidy

if [ -n "$failed" ]; then
    printf 'lint: FAILED:%s\n' "$failed"
    exit 1
fi
echo "lint: all checks passed"
