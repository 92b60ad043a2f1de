#!/bin/sh
# The template as an outside author meets it: copied out of the tree, built with the installed headers alone (found by
# pkg-config), one visible symbol, installed, and taken by the daemon.
#
#   test_build.sh SOURCE_TREE BUILD_TREE CC
set -eu
source=$1
build=$2
cc=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail()
{
    echo "test_build: $*" >&2
    exit 1
}

# What `make install` leaves of the SDK.
prefix=$work/prefix
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
cp -R "$source/sdk/include/streamit" "$prefix/include/"
sed -e "s|@STREAMIT_PC_TO_PREFIX@|../..|" -e 's|@CMAKE_INSTALL_LIBDIR@|lib|' \
    -e 's|@CMAKE_INSTALL_INCLUDEDIR@|include|' -e 's|@PROJECT_VERSION@|0.1.0|' \
    "$source/sdk/streamit-sdk.pc.in" > "$prefix/lib/pkgconfig/streamit-sdk.pc"
grep -q '@' "$prefix/lib/pkgconfig/streamit-sdk.pc" && fail "streamit-sdk.pc: a name was left unreplaced"

mkdir "$work/mine"
cp "$source/sdk/template/heartbeat.c" "$source/sdk/template/Makefile" "$work/mine/"
cd "$work/mine"
PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export PKG_CONFIG_PATH
make -s CC="$cc" CFLAGS='-O2 -Wall -Wextra -Wshadow -Wconversion -Werror'
make -s install

# Nothing but the C library is needed, nothing but the descriptor is shown.
symbols=$(nm -D --defined-only heartbeat.so | awk '{ print $3 }')
[ "$symbols" = sti_plugin ] || fail "heartbeat.so exports: $symbols"
needed=$(objdump -p heartbeat.so | awk '$1 == "NEEDED" && $2 !~ /^(libc|ld-linux)/ { print $2 }')
[ -z "$needed" ] || fail "heartbeat.so needs: $needed"

# Each header compiles by itself, as C11 and without extensions.
for header in "$prefix"/include/streamit/*.h; do
    echo "#include \"streamit/$(basename "$header")\"" |
        "$cc" -std=c11 -Wall -Wextra -Werror -I"$prefix/include" -x c -fsyntax-only - ||
        fail "$(basename "$header") does not compile alone"
done

cat > node.cfg <<END
node: { data_dir = "$work/data"; plugin_dir = "$build/lib/streamit"; };
broker: { };
plugins: {
  storage_memory: { };
  metadata_local: { };
  replication_none: { };
  heartbeat: { file = "$prefix/lib/streamit/heartbeat.so"; interval_ms = 5; };
};
END
"$build/bin/streamitd" --config node.cfg --check || fail "the daemon refuses heartbeat.so"
"$build/bin/streamitd" --config node.cfg --list-plugins | grep -q heartbeat || fail "heartbeat is not listed"
if "$build/bin/streamitd" --config node.cfg --set plugins.heartbeat.interval_ms=0 --check 2> refusal; then
    fail "interval_ms = 0 was taken"
fi
grep -q interval_ms refusal || fail "the refusal does not name interval_ms: $(cat refusal)"
echo "test_build: ok"
