/*
 * gdb's remote protocol (gdb's manual, appendix "Remote Serial Protocol"): all-stop, a thread a vCPU.
 *
 * 1. vCPUs are changed only while they stand still: packets are handled between vcpu_set_pause and _resume.
 * 2. A vCPU that stops by itself holds itself (vcpu_hold) and asks for the machine to stop; it is let go by
 * the next resume, whoever causes it.
 * 3. A stop is told to gdb once, and only where gdb has let the machine run.
 * 4. The other side may send anything: lengths are bounded, numbers checked. SPDX-License-Identifier:
 * GPL-2.0-or-later
 */
#include "gdbstub/gdbstub.h"

#include "arch/x86/mmu.h"
#include "arch/x86/system.h"
#include "base/error.h"
#include "gdbstub/registers.h"
#include "mem/rcu.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PACKET_MAX  0x4000u /* characters of a packet */
#define POINTS_MAX  256
#define SIGNAL_INT  2
#define SIGNAL_TRAP 5

typedef enum ReadState { READ_IDLE, READ_DATA, READ_SUM1, READ_SUM2 } ReadState;

struct GdbStub {
    Vm *vm;
    GdbMonitor *monitor;
    void *monitor_opaque;
    ChardevFrontend fe;
    Chardev *chr;
    bool own_chardev;
    unsigned count; /* of chardevs made, for their ids */
    /* the packet that comes in */
    ReadState state;
    GString *packet;
    uint8_t sum, sum_digit;
    bool escaped_overflow;
    bool no_ack;
    GString *last; /* what went out last, for '-' */
    /* what gdb has set */
    unsigned g_cpu;
    bool physical;
    GArray *breakpoints;    /* of uint64_t: linear addresses */
    GArray *hardware;       /* of bool: of which kind each is */
    GArray *watchpoints;    /* of X86Watchpoint */
    X86Debugger *debuggers; /* one a vCPU */
    unsigned cpus;
    bool attached; /* gdb is there */
    bool resuming; /* our own vm_start */
    bool report;   /* gdb waits for a stop */
    X86Cpu *stopped_cpu;
};

/* ---- bytes and numbers ---- */

static int hex_digit(char c)
{
    return g_ascii_xdigit_value(c);
}

static void put_hex(GString *to, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        g_string_append_printf(to, "%02x", bytes[i]);
    }
}

/* A hexadecimal number; false: there is none. */
static bool get_number(const char **at, uint64_t *value)
{
    const char *from = *at;

    *value = 0;
    while (g_ascii_isxdigit(**at)) {
        if (*at - from >= 16) {
            return false;
        }
        *value = *value << 4 | (uint64_t)hex_digit(**at);
        (*at)++;
    }
    return *at != from;
}

static bool get_char(const char **at, char c)
{
    if (**at != c) {
        return false;
    }
    (*at)++;
    return true;
}

/* Exactly size bytes of hexadecimal. */
static bool get_hex(const char **at, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int high = hex_digit((*at)[0]), low = high < 0 ? -1 : hex_digit((*at)[1]);
        if (low < 0) {
            return false;
        }
        bytes[i] = (uint8_t)(high << 4 | low);
        *at += 2;
    }
    return true;
}

/* ---- sending ---- */

static void send_raw(GdbStub *g, const char *text, size_t size)
{
    if (!chardev_fe_write_all(&g->fe, text, size)) {
        chardev_fe_disconnect(&g->fe);
    }
}

static void send_packet(GdbStub *g, const char *data, size_t size)
{
    uint8_t sum = 0;

    g_string_assign(g->last, "$");
    for (size_t i = 0; i < size; i++) {
        char c = data[i];
        if (c == '$' || c == '#' || c == '}' || c == '*') {
            g_string_append_c(g->last, '}');
            c ^= 0x20;
        }
        g_string_append_c(g->last, c);
    }
    for (gsize i = 1; i < g->last->len; i++) {
        sum = (uint8_t)(sum + (uint8_t)g->last->str[i]);
    }
    g_string_append_printf(g->last, "#%02x", sum);
    send_raw(g, g->last->str, g->last->len);
}

static void send_text(GdbStub *g, const char *text)
{
    send_packet(g, text, strlen(text));
}

/* ---- vCPUs ---- */

static unsigned cpu_count(const GdbStub *g)
{
    return vm_vcpus(g->vm) ? vcpu_set_count(vm_vcpus(g->vm)) : 0;
}

static X86Cpu *cpu_at(const GdbStub *g, unsigned index)
{
    return vm_vcpus(g->vm) ? vcpu_set_get(vm_vcpus(g->vm), index) : NULL;
}

/* The vCPU that registers and memory are about. */
static X86Cpu *looked_at(const GdbStub *g)
{
    X86Cpu *cpu = cpu_at(g, g->g_cpu);

    return cpu ? cpu : cpu_at(g, 0);
}

static void cpu_stopped(X86Cpu *cpu, X86Debugger *debugger)
{
    GdbStub *g = debugger->opaque;

    vcpu_hold(cpu, true);
    vm_request_stop(g->vm, RUN_STATE_DEBUG);
}

/* CPUs may have come since. */
static void make_debuggers(GdbStub *g)
{
    unsigned count = cpu_count(g);

    if (count != g->cpus) {
        X86Debugger *all = g_new0(X86Debugger, count);
        for (unsigned i = 0; i < count; i++) {
            if (i < g->cpus) {
                all[i] = g->debuggers[i];
            }
            all[i].stopped = cpu_stopped;
            all[i].opaque = g;
            X86Cpu *cpu = cpu_at(g, i);
            if (cpu->debugger) {
                x86_set_debugger(cpu, &all[i]);
            }
        }
        g_free(g->debuggers);
        g->debuggers = all;
        g->cpus = count;
    }
}

/* Tells each vCPU what is wanted of it. They stand still. */
static void apply(GdbStub *g)
{
    make_debuggers(g);
    for (unsigned i = 0; i < g->cpus; i++) {
        X86Debugger *d = &g->debuggers[i];
        X86Cpu *cpu = cpu_at(g, i);
        d->breakpoints = (const uint64_t *)(const void *)g->breakpoints->data;
        d->breakpoint_count = g->breakpoints->len;
        d->watchpoints = (const X86Watchpoint *)(const void *)g->watchpoints->data;
        d->watchpoint_count = g->watchpoints->len;
        bool wanted = d->breakpoint_count || d->watchpoint_count || d->step;
        if (wanted || cpu->debugger) {
            x86_set_debugger(cpu, wanted ? d : NULL);
        }
    }
}

/* All may run and none steps. */
static void let_all_go(GdbStub *g)
{
    for (unsigned i = 0; i < g->cpus; i++) {
        g->debuggers[i].step = false;
        g->debuggers[i].stop = X86_STOP_NONE;
        vcpu_hold(cpu_at(g, i), false);
    }
}

static void forget_points(GdbStub *g)
{
    vcpu_set_pause(vm_vcpus(g->vm));
    g_array_set_size(g->breakpoints, 0);
    g_array_set_size(g->hardware, 0);
    g_array_set_size(g->watchpoints, 0);
    make_debuggers(g);
    let_all_go(g);
    apply(g);
    vcpu_set_resume(vm_vcpus(g->vm));
}

/* ---- stops ---- */

static bool is_hardware(const GdbStub *g, uint64_t address)
{
    for (guint i = 0; i < g->breakpoints->len; i++) {
        if (g_array_index(g->breakpoints, uint64_t, i) == address) {
            return g_array_index(g->hardware, bool, i);
        }
    }
    return false;
}

static void send_stop(GdbStub *g)
{
    g_autoptr(GString) reply = g_string_new(NULL);
    const X86Debugger *found = NULL;
    unsigned index = g->g_cpu < g->cpus ? g->g_cpu : 0;

    for (unsigned i = 0; i < g->cpus && !found; i++) {
        unsigned n = (index + i) % g->cpus;
        if (g->debuggers[n].stop != X86_STOP_NONE) {
            found = &g->debuggers[n];
            index = n;
        }
    }
    g->g_cpu = index;
    g_string_printf(reply, "T%02xthread:%x;", found ? SIGNAL_TRAP : SIGNAL_INT, index + 1);
    if (found && found->stop == X86_STOP_WATCH) {
        const char *kind = found->hit.kinds == X86_WATCH_WRITE  ? "watch"
                           : found->hit.kinds == X86_WATCH_READ ? "rwatch"
                                                                : "awatch";
        g_string_append_printf(reply, "%s:%" PRIx64 ";", kind, found->hit.address);
    } else if (found && found->stop == X86_STOP_BREAKPOINT) {
        const X86Cpu *cpu = cpu_at(g, index);
        uint64_t linear = cpu->mode & MODE_CS64 ? cpu->rip : (uint32_t)(cpu->segs[SEG_CS].base + cpu->rip);
        g_string_append(reply, is_hardware(g, linear) ? "hwbreak:;" : "swbreak:;");
    }
    send_text(g, reply->str);
}

static void run_changed(void *opaque, bool running)
{
    GdbStub *g = opaque;

    if (running) {
        if (!g->resuming && g->cpus) {
            let_all_go(g); /* somebody else lets the machine run: all of it */
            apply(g);
        }
    } else if (g->report && g->attached) {
        g->report = false;
        make_debuggers(g);
        send_stop(g);
    }
}

/* Lets the machine run as the vCPUs' holds and steps say, which are set. */
static void resume(GdbStub *g)
{
    g_autoptr(GError) error = NULL;

    apply(g);
    g->report = true;
    g->resuming = true;
    bool ok = vm_start(g->vm, &error);
    g->resuming = false;
    if (!ok) { /* it has to be reset first, or is elsewhere */
        error_report(error);
        g->report = false;
        send_stop(g);
    }
}

/* actions: by vCPU, 'c', 's' or 0 (stays where it is). */
static void resume_with(GdbStub *g, const char *actions)
{
    make_debuggers(g);
    for (unsigned i = 0; i < g->cpus; i++) {
        g->debuggers[i].step = actions[i] == 's';
        g->debuggers[i].stop = X86_STOP_NONE;
        vcpu_hold(cpu_at(g, i), !actions[i]);
    }
    resume(g);
}

/* ---- memory ---- */

/* Where a virtual address lies, and how far the page goes on. */
static bool translate(const GdbStub *g, X86Cpu *cpu, uint64_t address, uint64_t *gpa, size_t *length)
{
    *length = (size_t)(4096 - (address & 4095));
    if (g->physical) {
        *gpa = address;
        return true;
    }
    return mmu_walk_debug(cpu, address, gpa);
}

static AddressSpace *memory_of(const GdbStub *g, const X86Cpu *cpu)
{
    return cpu->in_smm && cpu->env.smram ? cpu->env.smram : vm_machine(g->vm)->memory;
}

static size_t read_memory(GdbStub *g, uint64_t address, uint8_t *to, size_t size)
{
    X86Cpu *cpu = looked_at(g);
    size_t done = 0;

    while (done < size) {
        uint64_t gpa;
        size_t part;
        if (!translate(g, cpu, address + done, &gpa, &part)) {
            break;
        }
        part = MIN(part, size - done);
        if (address_space_read(memory_of(g, cpu), gpa, MEMTXATTRS_NONE, to + done, part) != MEMTX_OK) {
            break;
        }
        done += part;
    }
    return done;
}

/* ROM too: a debugger may patch it. */
static bool write_physical(AddressSpace *as, uint64_t gpa, const uint8_t *from, size_t size)
{
    while (size) {
        MemoryTarget target;
        size_t part;
        memory_rcu_lock();
        address_space_translate(as, gpa, &target);
        part = (size_t)MIN(size, target.length);
        bool direct = target.host && !target.ram->readonly;
        if (direct) {
            memcpy(target.host, from, part);
            ram_written(target.ram, target.ram_offset, part);
        }
        memory_rcu_unlock();
        if (!direct && address_space_write(as, gpa, MEMTXATTRS_NONE, from, part) != MEMTX_OK) {
            return false;
        }
        gpa += part;
        from += part;
        size -= part;
    }
    return true;
}

static bool write_memory(GdbStub *g, uint64_t address, const uint8_t *from, size_t size)
{
    X86Cpu *cpu = looked_at(g);

    while (size) {
        uint64_t gpa;
        size_t part;
        if (!translate(g, cpu, address, &gpa, &part)) {
            return false;
        }
        part = MIN(part, size);
        if (!write_physical(memory_of(g, cpu), gpa, from, part)) {
            return false;
        }
        address += part;
        from += part;
        size -= part;
    }
    return true;
}

static void packet_read_memory(GdbStub *g, const char *at)
{
    uint64_t address, size;

    if (!get_number(&at, &address) || !get_char(&at, ',') || !get_number(&at, &size)) {
        send_text(g, "E22");
        return;
    }
    size = MIN(size, PACKET_MAX / 2);
    g_autofree uint8_t *bytes = g_malloc(size + 1);
    size_t done = read_memory(g, address, bytes, size);
    if (!done && size) {
        send_text(g, "E14");
        return;
    }
    g_autoptr(GString) reply = g_string_sized_new(done * 2 + 1);
    put_hex(reply, bytes, done);
    send_text(g, reply->str);
}

/* M: hexadecimal; X: as they are. */
static void packet_write_memory(GdbStub *g, const char *at, const char *end, bool binary)
{
    uint64_t address, size;

    if (!get_number(&at, &address) || !get_char(&at, ',') || !get_number(&at, &size) || !get_char(&at, ':') ||
        size > PACKET_MAX) {
        send_text(g, "E22");
        return;
    }
    g_autofree uint8_t *bytes = g_malloc(size + 1);
    bool whole = binary ? (size_t)(end - at) == size : get_hex(&at, bytes, size);
    if (whole && binary) {
        memcpy(bytes, at, size);
    }
    send_text(g, !whole ? "E22" : write_memory(g, address, bytes, size) ? "OK" : "E14");
}

/* ---- registers ---- */

static void packet_read_all(GdbStub *g)
{
    g_autoptr(GString) reply = g_string_new(NULL);
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];

    for (unsigned i = 0; i < gdb_register_count(); i++) {
        put_hex(reply, bytes, gdb_register_read(looked_at(g), i, bytes));
    }
    send_text(g, reply->str);
}

static void packet_write_all(GdbStub *g, const char *at)
{
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];

    for (unsigned i = 0; i < gdb_register_count() && *at; i++) {
        unsigned size = gdb_register_read(looked_at(g), i, bytes);
        if (!get_hex(&at, bytes, size)) {
            send_text(g, "E22");
            return;
        }
        gdb_register_write(looked_at(g), i, bytes, size);
    }
    send_text(g, "OK");
}

static void packet_read_register(GdbStub *g, const char *at)
{
    g_autoptr(GString) reply = g_string_new(NULL);
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];
    uint64_t number;
    unsigned size = get_number(&at, &number) && number < UINT32_MAX
                        ? gdb_register_read(looked_at(g), (unsigned)number, bytes)
                        : 0;

    put_hex(reply, bytes, size);
    send_text(g, size ? reply->str : "E14");
}

static void packet_write_register(GdbStub *g, const char *at)
{
    uint8_t bytes[GDB_MAX_REGISTER_BYTES];
    uint64_t number;

    if (!get_number(&at, &number) || !get_char(&at, '=') || number > UINT32_MAX) {
        send_text(g, "E22");
        return;
    }
    unsigned size = gdb_register_read(looked_at(g), (unsigned)number, bytes);
    bool ok =
        size && get_hex(&at, bytes, size) && gdb_register_write(looked_at(g), (unsigned)number, bytes, size);
    send_text(g, ok ? "OK" : "E14");
}

/* ---- breakpoints and watchpoints ---- */

static bool change_breakpoint(GdbStub *g, bool insert, bool hardware, uint64_t address)
{
    for (guint i = 0; i < g->breakpoints->len; i++) {
        if (g_array_index(g->breakpoints, uint64_t, i) == address &&
            g_array_index(g->hardware, bool, i) == hardware) {
            if (!insert) {
                g_array_remove_index(g->breakpoints, i);
                g_array_remove_index(g->hardware, i);
            }
            return true;
        }
    }
    if (insert && g->breakpoints->len < POINTS_MAX) {
        g_array_append_val(g->breakpoints, address);
        g_array_append_val(g->hardware, hardware);
        return true;
    }
    return false;
}

static bool change_watchpoint(GdbStub *g, bool insert, unsigned kinds, uint64_t address, uint64_t length)
{
    X86Watchpoint w = { .address = address, .length = length, .kinds = kinds };

    if (length == 0 || length > 4096 || address > UINT64_MAX - length) {
        return false;
    }
    for (guint i = 0; i < g->watchpoints->len; i++) {
        const X86Watchpoint *old = &g_array_index(g->watchpoints, X86Watchpoint, i);
        if (old->address == address && old->length == length && old->kinds == kinds) {
            if (!insert) {
                g_array_remove_index(g->watchpoints, i);
            }
            return true;
        }
    }
    if (insert && g->watchpoints->len < POINTS_MAX) {
        g_array_append_val(g->watchpoints, w);
        return true;
    }
    return false;
}

static void packet_point(GdbStub *g, const char *at, bool insert)
{
    static const unsigned kinds[] = { 0, 0, X86_WATCH_WRITE, X86_WATCH_READ,
                                      X86_WATCH_READ | X86_WATCH_WRITE };
    uint64_t type, address, length;

    if (!get_number(&at, &type) || !get_char(&at, ',') || !get_number(&at, &address) || !get_char(&at, ',') ||
        !get_number(&at, &length)) {
        send_text(g, "E22");
        return;
    }
    if (type > 4) {
        send_text(g, ""); /* a kind that there is not */
        return;
    }
    bool ok = type < 2 ? change_breakpoint(g, insert, type == 1, address)
                       : change_watchpoint(g, insert, kinds[type], address, length);
    apply(g); /* the lists may lie elsewhere now */
    send_text(g, ok ? "OK" : "E22");
}

/* ---- threads ---- */

/* "-1" and "0" are any; 1 is vCPU 0. false: there is no such thread. */
static bool get_thread(const GdbStub *g, const char **at, int *index)
{
    uint64_t number;

    if (get_char(at, '-')) {
        *index = -1;
        return get_number(at, &number) && number == 1;
    }
    if (!get_number(at, &number) || number > cpu_count(g)) {
        return false;
    }
    *index = (int)number - 1;
    return true;
}

static void packet_thread(GdbStub *g, const char *at)
{
    char what = *at;
    int index;

    if (!what) {
        send_text(g, "E22");
        return;
    }
    at++;
    if (!get_thread(g, &at, &index)) {
        send_text(g, "E22");
        return;
    }
    if (what == 'g' && index >= 0) {
        g->g_cpu = (unsigned)index;
    }
    send_text(g, "OK");
}

static void packet_threads(GdbStub *g, bool first)
{
    g_autoptr(GString) reply = g_string_new(first ? "m" : "l");

    for (unsigned i = 0; first && i < cpu_count(g); i++) {
        g_string_append_printf(reply, "%s%x", i ? "," : "", i + 1);
    }
    send_text(g, reply->str);
}

static void packet_thread_info(GdbStub *g, const char *at)
{
    g_autoptr(GString) reply = g_string_new(NULL);
    int index;

    if (!get_thread(g, &at, &index) || index < 0) {
        send_text(g, "E22");
        return;
    }
    const X86Cpu *cpu = cpu_at(g, (unsigned)index);
    g_autofree char *text = g_strdup_printf("CPU#%u [%s]", cpu->index,
                                            cpu->wait_sipi ? "waits to be started"
                                            : cpu->halted  ? "halted"
                                                           : "running");
    put_hex(reply, (const uint8_t *)text, strlen(text));
    send_text(g, reply->str);
}

/* vCont;s:1;c - for each vCPU the first action that names it. */
static void packet_vcont(GdbStub *g, const char *at)
{
    unsigned count = cpu_count(g);
    g_autofree char *actions = g_malloc0(count + 1);

    while (get_char(&at, ';')) {
        char action = *at;
        uint64_t signal;
        int index = -1;
        if (!strchr("cCsS", action) || !action) {
            send_text(g, "E22");
            return;
        }
        at++;
        if ((action == 'C' || action == 'S') && !get_number(&at, &signal)) {
            send_text(g, "E22");
            return;
        }
        if (get_char(&at, ':') && !get_thread(g, &at, &index)) {
            send_text(g, "E22");
            return;
        }
        for (unsigned i = 0; i < count; i++) {
            if (!actions[i] && (index < 0 || i == (unsigned)index)) {
                actions[i] = (char)g_ascii_tolower(action);
            }
        }
    }
    resume_with(g, actions);
}

/* c and s with an optional address: everything goes on, or one vCPU makes a step. */
static void packet_continue(GdbStub *g, const char *at, bool step)
{
    unsigned count = cpu_count(g);
    g_autofree char *actions = g_malloc0(count + 1);
    uint64_t address;

    if (get_number(&at, &address)) {
        looked_at(g)->rip = address;
    }
    if (!step) {
        memset(actions, 'c', count);
    } else if (count) {
        actions[g->g_cpu < count ? g->g_cpu : 0] = 's';
    }
    resume_with(g, actions);
}

/* ---- queries ---- */

static void packet_features(GdbStub *g, const char *at)
{
    uint64_t offset, length;

    if (!g_str_has_prefix(at, "target.xml:")) {
        send_text(g, "E00");
        return;
    }
    at += strlen("target.xml:");
    if (!get_number(&at, &offset) || !get_char(&at, ',') || !get_number(&at, &length)) {
        send_text(g, "E22");
        return;
    }
    g_autofree char *xml = gdb_target_xml();
    size_t size = strlen(xml);
    g_autoptr(GString) reply = g_string_new(NULL);
    if (offset < size) {
        size_t part = MIN(MIN(length, PACKET_MAX / 2), size - offset);
        g_string_append_c(reply, offset + part < size ? 'm' : 'l');
        g_string_append_len(reply, xml + offset, (gssize)part);
    } else {
        g_string_append_c(reply, 'l');
    }
    send_packet(g, reply->str, reply->len);
}

static void packet_monitor(GdbStub *g, const char *at)
{
    size_t size = strlen(at) / 2;
    g_autofree char *line = g_malloc0(size + 1);

    if (!g->monitor || !get_hex(&at, (uint8_t *)line, size)) {
        send_text(g, "E22");
        return;
    }
    g_autofree char *text = g->monitor(g->monitor_opaque, line);
    size_t left = text ? strlen(text) : 0, done = 0;
    while (done < left) {
        size_t part = MIN(left - done, PACKET_MAX / 2 - 8);
        g_autoptr(GString) reply = g_string_new("O");
        put_hex(reply, (const uint8_t *)text + done, part);
        send_text(g, reply->str);
        done += part;
    }
    send_text(g, "OK");
}

static void packet_query(GdbStub *g, const char *q)
{
    if (g_str_has_prefix(q, "Supported")) {
        g_autofree char *reply = g_strdup_printf("PacketSize=%x;qXfer:features:read+;vContSupported+;"
                                                 "QStartNoAckMode+;swbreak+;hwbreak+",
                                                 PACKET_MAX);
        send_text(g, reply);
    } else if (g_str_has_prefix(q, "Xfer:features:read:")) {
        packet_features(g, q + strlen("Xfer:features:read:"));
    } else if (strcmp(q, "fThreadInfo") == 0) {
        packet_threads(g, true);
    } else if (strcmp(q, "sThreadInfo") == 0) {
        packet_threads(g, false);
    } else if (g_str_has_prefix(q, "ThreadExtraInfo,")) {
        packet_thread_info(g, q + strlen("ThreadExtraInfo,"));
    } else if (strcmp(q, "C") == 0) {
        g_autofree char *reply = g_strdup_printf("QC%x", g->g_cpu + 1);
        send_text(g, reply);
    } else if (g_str_has_prefix(q, "Attached")) {
        send_text(g, "1");
    } else if (g_str_has_prefix(q, "Rcmd,")) {
        packet_monitor(g, q + strlen("Rcmd,"));
    } else if (strcmp(q, "qemu.PhyMemMode") == 0) {
        send_text(g, g->physical ? "1" : "0");
    } else {
        send_text(g, "");
    }
}

static void packet_set(GdbStub *g, const char *q)
{
    if (strcmp(q, "StartNoAckMode") == 0) {
        send_text(g, "OK");
        g->no_ack = true;
    } else if (g_str_has_prefix(q, "qemu.PhyMemMode:")) {
        g->physical = q[strlen("qemu.PhyMemMode:")] == '1';
        send_text(g, "OK");
    } else {
        send_text(g, "");
    }
}

static void detach(GdbStub *g, bool go_on)
{
    g_autoptr(GError) error = NULL;

    g->report = false;
    forget_points(g);
    if (go_on && !vm_start(g->vm, &error)) {
        error_report(error);
    }
}

/* ---- packets ---- */

static void handle_packet(GdbStub *g, const char *p, size_t size)
{
    const char *end = p + size;

    switch (p[0]) {
    case '?':
        make_debuggers(g);
        send_stop(g);
        break;
    case 'g':
        packet_read_all(g);
        break;
    case 'G':
        packet_write_all(g, p + 1);
        break;
    case 'p':
        packet_read_register(g, p + 1);
        break;
    case 'P':
        packet_write_register(g, p + 1);
        break;
    case 'm':
        packet_read_memory(g, p + 1);
        break;
    case 'M':
    case 'X':
        packet_write_memory(g, p + 1, end, p[0] == 'X');
        break;
    case 'Z':
    case 'z':
        packet_point(g, p + 1, p[0] == 'Z');
        break;
    case 'c':
    case 's':
        packet_continue(g, p + 1, p[0] == 's');
        break;
    case 'C':
    case 'S': { /* with a signal, which no guest has */
        const char *semicolon = strchr(p, ';');
        packet_continue(g, semicolon ? semicolon + 1 : end, p[0] == 'S');
        break;
    }
    case 'v':
        if (strcmp(p, "vCont?") == 0) {
            send_text(g, "vCont;c;C;s;S");
        } else if (g_str_has_prefix(p, "vCont")) {
            packet_vcont(g, p + strlen("vCont"));
        } else if (g_str_has_prefix(p, "vKill")) {
            send_text(g, "OK");
            vm_request_shutdown(g->vm, SHUTDOWN_HOST_UI);
        } else {
            send_text(g, "");
        }
        break;
    case 'k':
        vm_request_shutdown(g->vm, SHUTDOWN_HOST_UI);
        break;
    case 'H':
        packet_thread(g, p + 1);
        break;
    case 'T': {
        const char *at = p + 1;
        int index;
        send_text(g, get_thread(g, &at, &index) && index >= 0 ? "OK" : "E22");
        break;
    }
    case 'D':
        send_text(g, "OK");
        detach(g, true);
        break;
    case 'q':
        packet_query(g, p + 1);
        break;
    case 'Q':
        packet_set(g, p + 1);
        break;
    default:
        send_text(g, "");
    }
}

static void packet_complete(GdbStub *g)
{
    if (!g->no_ack) {
        send_raw(g, "+", 1);
    }
    if (!looked_at(g)) { /* -M none: there is nothing to look at */
        send_text(g, g->packet->str[0] == 'q' ? "" : "E01");
        return;
    }
    VcpuSet *vcpus = vm_vcpus(g->vm);
    vcpu_set_pause(vcpus);
    handle_packet(g, g->packet->str, g->packet->len);
    vcpu_set_resume(vcpus);
}

static void receive_byte(GdbStub *g, char c)
{
    switch (g->state) {
    case READ_IDLE:
        if (c == '$') {
            g_string_truncate(g->packet, 0);
            g->sum = 0;
            g->escaped_overflow = false;
            g->state = READ_DATA;
        } else if (c == 0x03) {
            if (vm_running(g->vm)) {
                g->report = true;
                vm_stop(g->vm, RUN_STATE_PAUSED);
            }
        } else if (c == '-' && !g->no_ack && g->last->len) {
            send_raw(g, g->last->str, g->last->len);
        }
        break;
    case READ_DATA:
        if (c == '#') {
            g->state = READ_SUM1;
        } else if (c == '$') {
            g_string_truncate(g->packet, 0); /* the one before was cut off */
            g->sum = 0;
        } else {
            g->sum = (uint8_t)(g->sum + (uint8_t)c);
            if (g->packet->len > PACKET_MAX) {
                g->escaped_overflow = true;
            } else {
                g_string_append_c(g->packet, c);
            }
        }
        break;
    case READ_SUM1:
        g->sum_digit = (uint8_t)hex_digit(c);
        g->state = hex_digit(c) < 0 ? READ_IDLE : READ_SUM2;
        break;
    case READ_SUM2:
        g->state = READ_IDLE;
        if (hex_digit(c) < 0 || (g->sum_digit << 4 | hex_digit(c)) != g->sum || g->escaped_overflow) {
            if (!g->no_ack) {
                send_raw(g, "-", 1);
            }
            break;
        }
        /* Only X has binary data, but an escape means the same everywhere. */
        gsize to = 0;
        for (gsize from = 0; from < g->packet->len; from++) {
            bool escape = g->packet->str[from] == '}' && from + 1 < g->packet->len;
            from += escape;
            g->packet->str[to++] = (char)(escape ? g->packet->str[from] ^ 0x20 : g->packet->str[from]);
        }
        g_string_truncate(g->packet, to);
        packet_complete(g);
        break;
    }
}

static void receive(void *opaque, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        receive_byte(opaque, (char)data[i]);
    }
}

/* ---- the connection ---- */

static void connection_event(void *opaque, ChardevEvent event)
{
    GdbStub *g = opaque;

    if (event == CHARDEV_EVENT_OPENED) {
        g->attached = true;
        g->no_ack = g->physical = g->report = false;
        g->state = READ_IDLE;
        g->g_cpu = 0;
        g_string_truncate(g->last, 0);
        vm_stop(g->vm, RUN_STATE_PAUSED); /* gdb finds what it connects to standing still */
    } else if (event == CHARDEV_EVENT_CLOSED && g->attached) {
        g->attached = false;
        if (vm_vcpus(g->vm)) {
            detach(g, false);
        }
    }
}

static const ChardevFrontendOps ops = { .receive = receive, .event = connection_event };

static void stop_listening(GdbStub *g)
{
    if (!g->chr) {
        return;
    }
    if (g->attached) {
        connection_event(g, CHARDEV_EVENT_CLOSED);
    }
    chardev_fe_set_handlers(&g->fe, NULL, NULL, NULL);
    chardev_fe_deinit(&g->fe);
    if (g->own_chardev) {
        g_autofree char *id = g_strdup(chardev_id(g->chr));
        chardev_remove(vm_chardevs(g->vm), id, NULL);
    }
    g->chr = NULL;
    memset(&g->fe, 0, sizeof(g->fe));
}

bool gdbstub_listen(GdbStub *g, const char *device, GError **error)
{
    stop_listening(g);
    if (strcmp(device, "none") == 0) {
        return true;
    }
    g_autofree char *id = g_strdup_printf("gdb%u", g->count++);
    /* Sockets listen, and the machine does not wait for gdb; small packets go at once. */
    bool is_socket = g_str_has_prefix(device, "tcp:") || g_str_has_prefix(device, "unix:");
    g_autofree char *text = !is_socket || strstr(device, "server")
                                ? g_strdup(device)
                                : g_strconcat(device, ",server=on,wait=off", NULL);
    g->own_chardev = !g_str_has_prefix(device, "chardev:");
    g->chr = chardev_add_legacy(vm_chardevs(g->vm), id, text, NULL, error);
    if (!g->chr || !chardev_fe_init(&g->fe, g->chr, error)) {
        error_prefix(error, "gdbserver: could not open device '%s': ", device);
        if (g->chr && g->own_chardev) {
            chardev_remove(vm_chardevs(g->vm), id, NULL);
        }
        g->chr = NULL;
        return false;
    }
    chardev_fe_set_handlers(&g->fe, &ops, g, NULL);
    return true;
}

GdbStub *gdbstub_new(Vm *vm, GdbMonitor *monitor, void *opaque)
{
    GdbStub *g = g_new0(GdbStub, 1);

    g->vm = vm;
    g->monitor = monitor;
    g->monitor_opaque = opaque;
    g->packet = g_string_new(NULL);
    g->last = g_string_new(NULL);
    g->breakpoints = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    g->hardware = g_array_new(FALSE, FALSE, sizeof(bool));
    g->watchpoints = g_array_new(FALSE, FALSE, sizeof(X86Watchpoint));
    vm_add_run_handler(vm, run_changed, g);
    return g;
}

void gdbstub_free(GdbStub *g)
{
    if (!g) {
        return;
    }
    if (g->attached) {
        g->report = false;
        send_text(g, "W00"); /* the guest has ended */
        chardev_fe_pending(&g->fe);
    }
    stop_listening(g);
    vm_services(g->vm)->remove_handlers(vm_services(g->vm)->opaque, g);
    g_string_free(g->packet, TRUE);
    g_string_free(g->last, TRUE);
    g_array_unref(g->breakpoints);
    g_array_unref(g->hardware);
    g_array_unref(g->watchpoints);
    g_free(g->debuggers);
    g_free(g);
}
