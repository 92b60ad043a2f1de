#!/bin/sh
# generate.sh PROGRAM SECTION SUMMARY: a manual page out of a program's own help, so that the two cannot differ.
set -eu
program=$1 section=$2 summary=$3
name=$(basename "$program")

# Text as it is, for troff.
plain() {
    printf '.nf\n'
    sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"
    printf '.fi\n'
}

printf '.TH %s %s "" "StreamIt" "%s"\n' "$(echo "$name" | tr '[:lower:]' '[:upper:]')" "$section" "StreamIt manual"
printf '.SH NAME\n%s \\- %s\n' "$name" "$summary"
printf '.SH DESCRIPTION\n'
"$program" --help | plain
"$program" --help | sed -nE 's/^  ([a-z][a-z-]*( [a-z-]+)?) {2,}.*/\1/p' | while read -r command; do
    printf '.SH %s\n' "$(echo "$command" | tr '[:lower:]' '[:upper:]' | sed 's/-/\\-/g')"
    # shellcheck disable=SC2086 # a command may have two words
    "$program" $command --help | sed '/^Everywhere:/,$d' | plain
done
"$program" --help | grep -q COMMAND || exit 0
printf '.SH OPTIONS OF EVERY COMMAND\n'
"$program" list-topics --help | sed '1,/^Everywhere:/d' | plain
printf '.SH ENVIRONMENT\n.TP\nSTREAMIT_SERVER\nThe servers to ask, as \\-\\-server.\n'
printf '.SH SEE ALSO\nstreamitd(8), libstreamit(3)\n'
