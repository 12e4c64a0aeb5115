#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Debian's libvirt with Rhea as its emulator: probe, define, start, console, suspend, resume, reset, shutdown, destroy,
# and a libvirtd that is restarted in between.
#   tests/control/libvirt_test.sh [BUILD-DIRECTORY]
# Needs root, libvirt-daemon-system and libvirt-clients; RHEA_GUEST (or BUILD/guest) holds vmlinuz and initrd.gz from
# tools/guest.sh. Runs its own virtlogd and libvirtd in a mount namespace of its own: nothing of the host's libvirt is
# touched. Prints TAP.
set -u
export LC_ALL=C
build=$(cd "${1:-build}" && pwd)
guest=${RHEA_GUEST:-$build/guest}

skip() {
    echo "1..0 # SKIP $*"
    exit 0
}
[ "$(id -u)" = 0 ] || skip "needs root"
for program in /usr/sbin/libvirtd /usr/sbin/virtlogd; do
    [ -x $program ] || skip "libvirt is not installed (apt-get install libvirt-daemon-system libvirt-clients)"
done
for program in virsh script unshare; do
    command -v $program >/dev/null || skip "$program is not installed"
done
[ -e "$guest/vmlinuz" ] && [ -e "$guest/initrd.gz" ] || skip "no guest in $guest (tools/guest.sh -o $guest)"
[ -x "$build/rhea-system-x86_64" ] || skip "rhea-system-x86_64 is not built"

if [ -z "${RHEA_LIBVIRT_NAMESPACE:-}" ]; then
    unshare -m true 2>/dev/null || skip "mount namespaces are not allowed here"
    RHEA_LIBVIRT_NAMESPACE=1 exec unshare -m "$0" "$build"
fi

# What the libvirt-qemu user can reach.
work=$(mktemp -d /var/tmp/rhea-libvirt.XXXXXX)
chmod 755 "$work"
cp "$build/rhea-system-x86_64" "$guest/vmlinuz" "$guest/initrd.gz" "$work/"
truncate -s 64M "$work/disk.raw"
chmod 644 "$work/vmlinuz" "$work/initrd.gz"
chmod 666 "$work/disk.raw"
emulator=$work/rhea-system-x86_64
for directory in /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run/libvirt /etc/libvirt/qemu; do
    mkdir -p $directory
    mount -t tmpfs -o mode=755 none $directory
done
mkdir -p /var/lib/libvirt/qemu /var/log/libvirt/qemu
# Where KVM could be used and the emulator does not, libvirt asks the emulator for its capabilities anew at every turn, 2 s
# each (virQEMUCapsIsValid). So the user that emulators run as is in no group here that may use KVM.
group=$(getent group libvirt-qemu | cut -d: -f3)
if [ -n "$group" ]; then
    sed "s/^\(libvirt-qemu:[^:]*:[0-9]*\):[0-9]*:/\1:$group:/" /etc/passwd >"$work/passwd"
    sed '/^kvm:/s/:[^:]*$/:/' /etc/group >"$work/group"
    mount --bind "$work/passwd" /etc/passwd
    mount --bind "$work/group" /etc/group
fi
# Of the host's own emulators it is to see none.
touch "$work/none"
chmod 0 "$work/none"
for hidden in /usr/bin/qemu-system-* /usr/bin/kvm; do
    [ ! -e "$hidden" ] || mount --bind "$work/none" "$(readlink -f "$hidden")"
done
cat >"$work/libvirtd.conf" <<END
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "3:file:$work/libvirtd.log"
END

alive() { # alive PIDFILE
    [ -e "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}
start_libvirtd() {
    libvirtd -d -f "$work/libvirtd.conf" -p "$work/libvirtd.pid"
    for _ in $(seq 100); do
        virsh list >/dev/null 2>&1 && return
        sleep 0.1
    done
}
stop_libvirtd() {
    alive "$work/libvirtd.pid" || return
    daemon=$(cat "$work/libvirtd.pid")
    kill "$daemon"
    for _ in $(seq 100); do
        kill -0 "$daemon" 2>/dev/null || return
        sleep 0.1
    done
}
clean_up() {
    virsh destroy rhea-min >/dev/null 2>&1
    virsh destroy rhea-full >/dev/null 2>&1
    stop_libvirtd
    alive "$work/virtlogd.pid" && kill "$(cat "$work/virtlogd.pid")"
    for mount in $(findmnt -rno TARGET,SOURCE | grep -F "[$work/" | cut -d" " -f1) /etc/passwd /etc/group; do
        umount "$mount" 2>/dev/null
    done
    rm -rf "$work"
}
trap clean_up EXIT
virtlogd -d -p "$work/virtlogd.pid"
start_libvirtd

count=0
failed=0
check() { # check NAME COMMAND...: what it prints is shown where it fails
    local name=$1 output
    shift
    count=$((count + 1))
    if output=$("$@" 2>&1); then
        echo "ok $count $name"
    else
        failed=$((failed + 1))
        echo "not ok $count $name"
        printf '%s\n' "$output" | tail -n 15 | cut -c 1-300 | sed 's/^/# /'
    fi
}
state_is() { # state_is DOMAIN STATE SECONDS
    for _ in $(seq $(($3 * 10))); do
        [ "$(virsh domstate "$1" 2>/dev/null | head -n 1)" = "$2" ] && return
        sleep 0.1
    done
    echo "$1 is $(virsh domstate "$1"), expected $2"
    tail -n 5 "/var/log/libvirt/qemu/$1.log"
    return 1
}
# console DOMAIN SECONDS PATTERN [LINE...]: types the lines and waits until the pattern was printed.
console() {
    local domain=$1 seconds=$2 pattern=$3 log=$work/console.log
    shift 3
    : >"$log"
    mkfifo "$work/keys"
    # The pipe's writing end stays open until the end: virsh leaves when its input ends.
    exec 7<>"$work/keys"
    script -qfc "virsh console --force $domain" "$log" <"$work/keys" >/dev/null 2>&1 &
    local pid=$! result=1
    sleep 1
    for _ in $(seq $((seconds * 2))); do
        for line in "$@" ""; do
            printf '%s\n' "$line" >&7
        done
        sleep 0.5
        grep -q "$pattern" "$log" && result=0 && break
    done
    printf '\035' >&7
    exec 7>&-
    rm -f "$work/keys"
    kill $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ $result = 0 ] || tail -c 600 "$log"
    return $result
}
domcapabilities() {
    local out
    out=$(virsh domcapabilities --emulatorbin "$emulator" --virttype qemu --machine pc) || { echo "$out"; return 1; }
    grep -q '<machine>pc-i440fx-' <<<"$out" && grep -q "<mode name='custom' supported='yes'>" <<<"$out" &&
        grep -q "<model usable='yes'[^>]*>qemu64<" <<<"$out" && return
    echo "$out"
    return 1
}
define() { # define NAME DEVICES...
    local name=$1 balloon="<memballoon model='none'/>"
    shift
    [[ "$*" == *memballoon* ]] && balloon=
    cat >"$work/$name.xml" <<END
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>$work/vmlinuz</kernel><initrd>$work/initrd.gz</initrd><cmdline>console=ttyS0 quiet</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>$emulator</emulator>
    <controller type='usb' model='none'/>
    $balloon
    <serial type='pty'/>
    $*
  </devices>
</domain>
END
    virsh define "$work/$name.xml"
}
restart_libvirtd() {
    stop_libvirtd
    start_libvirtd
    virsh list --name | grep -qx "$1" || { virsh list --all; return 1; }
}
query() { # query DOMAIN HMP-COMMAND PATTERN
    local out
    out=$(virsh qemu-monitor-command --hmp "$1" "$2") && grep -q "$3" <<<"$out" || { echo "$out"; return 1; }
}
not_running() {
    ! virsh list --name | grep -qx "$1"
}

check "probe and domcapabilities" domcapabilities
check "define" define rhea-min
check "start" virsh start rhea-min
check "the console shows a shell that answers" console rhea-min 60 'answer-42' 'echo answer-$((6*7))'
check "suspend" virsh suspend rhea-min
check "it is paused" state_is rhea-min paused 5
check "resume" virsh resume rhea-min
check "it runs" state_is rhea-min running 5
check "a new libvirtd finds it again" restart_libvirtd rhea-min
check "the monitor answers the new libvirtd" query rhea-min "info status" "running"
check "the console works again" console rhea-min 30 'again-7' 'echo again-$((3+4))'
check "domstats" virsh domstats rhea-min
check "reset" virsh reset rhea-min
check "the console after the reset" console rhea-min 60 'third-9' 'echo third-$((4+5))'
check "shutdown by the power button" virsh shutdown --mode acpi rhea-min
check "it is off" state_is rhea-min "shut off" 40
check "start again" virsh start rhea-min
check "destroy" virsh destroy rhea-min
check "it is gone" not_running rhea-min

check "define with disk, network, channel, balloon and random numbers" define rhea-full "
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='$work/disk.raw'/>
      <target dev='vda' bus='virtio'/><serial>rhea-disk</serial></disk>
    <memballoon model='virtio'/>
    <interface type='user'><mac address='52:54:00:12:34:56'/><model type='virtio'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
check "start it" virsh start rhea-full
check "the guest sees the disk" console rhea-full 60 'vda-131072' 'echo vda-$(cat /sys/block/vda/size)'
check "the guest has the network" console rhea-full 30 '0% packet loss' 'ping -c 1 10.0.2.2'
check "memory statistics" virsh dommemstat rhea-full
check "block statistics" virsh domblkstat rhea-full vda
check "attach a disk" virsh attach-disk rhea-full "$work/vmlinuz" vdb --driver qemu --subdriver raw --mode readonly --live
check "detach it" virsh detach-disk rhea-full vdb --live
check "link down" virsh domif-setlink rhea-full 52:54:00:12:34:56 down
check "link up" virsh domif-setlink rhea-full 52:54:00:12:34:56 up
check "a mark in the guest's memory" console rhea-full 30 'left-5' 'echo left-$((2+3)); mark=kept'
check "save" virsh save rhea-full "$work/rhea-full.save"
check "it is off while it is saved" state_is rhea-full "shut off" 10
check "restore" virsh restore "$work/rhea-full.save"
check "it goes on" state_is rhea-full running 10
check "the mark is there" console rhea-full 30 'mark-kept' 'echo mark-$mark'
check "the network is there" console rhea-full 30 '0% packet loss' 'ping -c 1 10.0.2.2'
check "save in libvirt's own place" virsh managedsave rhea-full
check "start takes it" virsh start rhea-full
check "the mark is there again" console rhea-full 30 'still-kept' 'echo still-$mark'
check "info qtree over libvirt" query rhea-full "info qtree" "virtio-blk"
check "destroy it" virsh destroy --graceful rhea-full
echo "1..$count"
[ $failed = 0 ]
