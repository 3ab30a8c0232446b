#!/usr/bin/env bash
# The AVX-512 kernel on a machine that has none: lanes_check.c, alone on an emulated Skylake-X.
# Needs Debian's bochs, bochs-term and gcc, x86-64. Prints the paths that were compared; exit status 0 when all agree.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ext=$here/../../ext
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v bochs-bin >/dev/null || { echo "bochs is missing: apt-get install bochs bochs-term" >&2; exit 1; }

flags=(-O2 -std=gnu11 -ffreestanding -fno-pic -no-pie -mno-red-zone -fno-stack-protector -fno-asynchronous-unwind-tables
  -fno-tree-loop-distribute-patterns -Wall -Wextra -I"$ext")
gcc "${flags[@]}" -Wno-builtin-declaration-mismatch -c "$here/bare/shim.c" -o "$work/shim.o"
for source in "$here/lanes_check.c" "$ext/blake3_tree.c" "$ext/blake3_kernels.c"; do
  gcc "${flags[@]}" -c "$source" -o "$work/$(basename "$source" .c).o"
done
libgcc=$(gcc -print-libgcc-file-name)
ld --no-warn-rwx-segments -T "$here/bare/link.ld" -o "$work/program.elf" "$work"/*.o "$libgcc"
objcopy -O binary "$work/program.elf" "$work/program.bin"

sectors=$((($(stat -c %s "$work/program.bin") + 64 * 512 - 1) / (64 * 512) * 64))
gcc -c -DSECTORS="$sectors" -DXCR0=0xe7 "$here/bare/boot.S" -o "$work/boot.o"
ld -Ttext 0x7c00 --section-start=.boot=0x7c00 --oformat binary -o "$work/boot.bin" "$work/boot.o"
cat "$work/boot.bin" "$work/program.bin" >"$work/disk.img"
truncate -s $((20 * 16 * 63 * 512)) "$work/disk.img"
cat >"$work/bochsrc" <<RC
cpu: model=corei7_skylake_x, ips=50000000, reset_on_triple_fault=0
memory: guest=64, host=64
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
ata0: enabled=1
ata0-master: type=disk, path=$work/disk.img, mode=flat, cylinders=20, heads=16, spt=63
boot: disk
display_library: term
port_e9_hack: enabled=1
panic: action=fatal
log: $work/log
RC
(cd "$work" && echo c | TERM=xterm timeout 300 script -qec "bochs-bin -q -f $work/bochsrc" /dev/null >"$work/out" 2>&1) || true
tr -d '\r\033' <"$work/out" | grep -a -o -E '(kernel|path) [a-z0-9_-]+|exit [0-9]' | tee "$work/told"
grep -q '^path avx512$' "$work/told" && grep -q '^exit 0$' "$work/told"
