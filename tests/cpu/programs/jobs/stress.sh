# stress-ng's stressors that verify what they compute: each passes, as on the host.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 900
run() { # run NAME OPTIONS...
    name=$1
    shift
    stress-ng --verify --no-rand-seed --temp-path /work/tmp "$@" >log 2>&1
    status=$?
    echo "$name $status $(grep -c 'fail:' log)"
    ! grep -q 'unrecognized option' log || exit 1
    [ $status = 0 ] || { echo "== $*"; cat log; } >&2
}
for method in $(stress-ng --cpu 1 --cpu-method list 2>&1 | sed 's/.*: //'); do
    case $method in all|cpu-method|must|list) continue ;; esac
    run "cpu $method" --cpu 2 --cpu-method "$method" --cpu-ops 4 -t 20
done
for method in $(stress-ng --vm 1 --vm-method list 2>&1 | sed 's/.*: //'); do
    case $method in all|vm-method|must|list) continue ;; esac
    run "vm $method" --vm 2 --vm-bytes 4m --vm-method "$method" --vm-ops 2 -t 10
done
for stressor in atomic bigheap bsearch crypt fork funccall futex hash hsearch icache jpeg judy list longjmp lockbus \
    lsearch malloc matrix matrix-3d memcpy mergesort memfd mmap mmapfork mremap msync mutex nop opcode peterson dekker pipe poll prefetch \
    pthread qsort radixsort randlist regs sem shellsort sigfpe sigq sigsegv sigsuspend sigtrap skiplist sparsematrix stack str switch \
    tree tsc usersyscall vecfp vecmath vecshuf vecwide vfork wcs zlib membarrier memthrash mincore mlock mprotect munmap x86cpuid userfaultfd; do
    run "$stressor" "--$stressor" 2 -t 2
done
