# SPDX-License-Identifier: GPL-2.0-or-later
# The front door: `make run` boots a guest, `make test` runs the tests. Meson and Ninja do the work in build/.

BUILD      ?= build
BUILD_ASAN ?= build-asan
BUILD_TSAN ?= build-tsan
GUEST      ?= $(BUILD)/guest
KERNEL     ?= cloud
PREFIX     ?= /usr/local
JOBS       ?= $(shell nproc)
MESON      ?= meson
SECONDS    ?= 600

.PHONY: all run test check bench bench-cpu bench-io soak-cpu soak-io soak-guest-disk soak-hotplug soak-state soak-programs soak-disks soak-systems soak-kvm soak-devices fuzz tsan format install clean deps deps-test guest

all: $(BUILD)/build.ninja
	ninja -C $(BUILD) -j $(JOBS)

deps:
	@tools/install-deps.sh

deps-test:
	@tools/install-deps.sh --test

$(BUILD)/build.ninja:
	@tools/install-deps.sh
	$(MESON) setup $(BUILD) --prefix $(PREFIX)

# Boots Debian's kernel to a shell (Ctrl-A X ends it). Where standard input is no terminal, the guest checks itself, and
# the last line reads "N passed, N failed".
run: deps
	@$(MAKE) --no-print-directory all >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@$(MAKE) --no-print-directory guest
	@tools/run_guest.sh $(BUILD) $(GUEST)

guest:
	@tools/guest.sh -k $(KERNEL) -o $(GUEST)

test: deps-test all guest
	@tools/guest.sh -k generic -o $(BUILD)/guest-generic
	@tests/run_tests.py --build $(BUILD) --asan $(BUILD_ASAN) --guest $(GUEST) --jobs $(JOBS)

# Layers, formatting, headers that compile alone, clang-tidy: on what the branch changed, with TIDY=all on everything.
check: deps-test all
	@TIDY=$(TIDY) JOBS=$(JOBS) tools/check.sh $(BUILD)

bench: deps-test all guest
	@tests/bench/run_bench.py --build $(BUILD) --guest $(GUEST)

# The software CPU beside QEMU's and the bare host. ARGS: see tests/bench/cpu_bench.py --help.
bench-cpu: all guest
	@tools/install-deps.sh --bench
	@tests/bench/cpu_bench.py --build $(BUILD) --guest $(GUEST) $(ARGS)

# Storage beside QEMU's and the bare file; says which packages it lacks. ARGS: see tests/bench/io_bench.py --help.
bench-io: all
	@tests/bench/io_bench.py --build $(BUILD) $(ARGS)

# The translator against the interpreter, and two CPUs against each other, for long.
soak-cpu: all guest
	@RHEA_GUEST=$(GUEST) tests/cpu/soak_test.py --build $(BUILD) --long

# Compilers, codecs, cryptography, run-time translators and test suites in a guest: results as on the host. As root. ARGS: see
# tests/cpu/programs_test.py --help.
soak-programs: all guest
	@tools/install-deps.sh --programs
	@tests/cpu/programs/tree.sh $(if $(OPENSSL_TESTS),-s) $(BUILD)/programs
	@tests/cpu/programs_test.py --build $(BUILD) --guest $(GUEST) $(ARGS)

# An image server that is killed, 50 times for each kind of image; as root the power is cut too.
soak-io: all
	@tests/block/soak_io.py --build $(BUILD) --kills 50
	@[ "$$(id -u)" != 0 ] || tests/block/soak_io.py --build $(BUILD) --kills 20 --power

# A guest that is killed at random under fsync load, 50 times: every acknowledged transaction is in its qcow2 image.
soak-guest-disk: all guest
	@tests/block/soak_guest.py --build $(BUILD) --guest $(GUEST) --kills 50

# The accelerator kvm on a host without /dev/kvm: in a machine that has one, emulated by QEMU. As root; some minutes.
soak-kvm: all
	@tools/guest.sh -k generic -o $(BUILD)/guest-generic
	@tests/machine/nested_kvm.py --build $(BUILD) --guest $(BUILD)/guest-generic

# Cards come and go 50 times on each PC: with a small guest, then with a whole Debian and traffic on all of them.
soak-hotplug: all guest
	@tools/install-deps.sh --disks
	@tests/boot/hotplug_test.py --build $(BUILD) --guest $(GUEST) --rounds 50
	@tests/boot/debian_hotplug.py --build $(BUILD) --rounds 50 $(ARGS)

# A guest that works is taken over by a new process 20 times, on each machine, with one CPU and with two; then a whole Debian
# that compiles a program.
soak-state: all guest
	@tools/install-deps.sh --disks
	@tests/migration/soak_state.py --build $(BUILD) --guest $(GUEST) --rounds 100 --pause 0.6
	@tests/migration/debian_state.py --build $(BUILD) $(ARGS)

# A whole Debian, made here, starts from each kind of disk through SeaBIOS and OVMF. ARGS: see tests/boot/debian_test.py --help.
soak-disks: all
	@tools/install-deps.sh --disks
	@tests/boot/debian_test.py --build $(BUILD) $(ARGS)

# Linux's drivers with every variant of the devices that have some.
soak-devices: all
	@tests/boot/devices_test.py --build $(BUILD) --long $(ARGS)

# memtest86+ and Debian's installer, as packages have them. ARGS: see tests/boot/systems_test.py --help.
soak-systems: all
	@tools/install-deps.sh --disks
	@tests/boot/systems_test.py --build $(BUILD) $(ARGS)

# Each fuzz target for SECONDS, under the sanitizers.
fuzz: deps-test
	@tests/fuzz/run_fuzz.py --build $(BUILD_ASAN) --seconds $(SECONDS)

format:
	git ls-files '*.c' '*.h' | xargs clang-format -i

install: all
	$(MESON) install -C $(BUILD)

# The unit tests, then a guest with two vCPUs, under ThreadSanitizer. Interpreted: translated code is none that it sees.
tsan: deps-test guest
	@[ -e $(BUILD_TSAN)/build.ninja ] || $(MESON) setup $(BUILD_TSAN) -Db_sanitize=thread -Dbuildtype=debug \
		-Doptimization=1 -Db_lundef=false
	ninja -C $(BUILD_TSAN) -j $(JOBS)
	G_SLICE=always-malloc TSAN_OPTIONS="halt_on_error=0 suppressions=$(CURDIR)/tests/tsan.supp" \
		$(MESON) test -C $(BUILD_TSAN) --suite unit --timeout-multiplier 6 --print-errorlogs
	tests/boot/tsan_boot.py --build $(BUILD_TSAN) --guest $(GUEST)

clean:
	rm -rf $(BUILD) $(BUILD_ASAN) $(BUILD_TSAN) $(BUILD).log
