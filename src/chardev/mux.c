/*
 * The mux: several front ends on one chardev, of which one has the focus. Ctrl-A (-echr) and a letter are
 * commands to it. Output of all goes to the base. SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "chardev/chardev_internal.h"

#include "base/error.h"

#include <string.h>

#define QUEUE_BYTES 1024

typedef struct Mux {
    Chardev chr; /* chr.fe is the front end in focus */
    Chardev *base;
    ChardevFrontend base_fe;
    ChardevFrontend *fes[CHARDEV_MUX_FRONTENDS];
    uint8_t queue[QUEUE_BYTES]; /* input that the front end in focus does not take yet */
    size_t queued;
    bool escaped;          /* the escape key was the last one */
    ChardevFrontend *told; /* who was told last that it has the focus */
} Mux;

static void flush_queue(Mux *m)
{
    size_t taken = 0;

    while (taken < m->queued && !__atomic_load_n(&m->chr.input_paused, __ATOMIC_SEQ_CST)) {
        size_t n = chardev_deliver(&m->chr, m->queue + taken, m->queued - taken);

        if (!n) {
            break;
        }
        taken += n;
    }
    memmove(m->queue, m->queue + taken, m->queued - taken);
    m->queued -= taken;
}

static void fe_event(ChardevFrontend *fe, ChardevEvent event)
{
    bool locked;

    if (fe && fe->ops && fe->ops->event) {
        chardev_fe_lock(fe, &locked);
        fe->ops->event(fe->opaque, event);
        chardev_fe_unlock(fe, locked);
    }
}

static void help(Mux *m)
{
    int code = chardev_registry_escape(m->chr.reg);
    g_autofree char *key =
        code < 32 ? g_strdup_printf("Ctrl-%c", code + 64) : g_strdup_printf("0x%02x", code);
    g_autofree char *text = g_strdup_printf("\r\n%s h    this help\r\n"
                                            "%s x    end the machine\r\n"
                                            "%s b    send a break\r\n"
                                            "%s c    switch between the console and the monitor\r\n"
                                            "%s %s   send %s itself\r\n",
                                            key, key, key, key, key, key, key);

    chardev_fe_write(&m->base_fe, text, strlen(text));
}

static void next_focus(Mux *m)
{
    int at = m->chr.fe ? m->chr.fe->mux_index : 0;

    for (int i = 1; i <= CHARDEV_MUX_FRONTENDS; i++) {
        ChardevFrontend *fe = m->fes[(at + i) % CHARDEV_MUX_FRONTENDS];

        if (fe && fe->ops) {
            chardev_mux_focus(&m->chr, fe);
            chardev_mux_run(&m->chr);
            return;
        }
    }
}

/* Returns whether the byte is input for the front end. */
static bool command(Mux *m, uint8_t c)
{
    static const char ended[] = "rhea: terminated\r\n";
    int escape = chardev_registry_escape(m->chr.reg);

    if (!m->escaped) {
        m->escaped = c == escape;
        return !m->escaped;
    }
    m->escaped = false;
    if (c == escape) {
        return true;
    }
    switch (c) {
    case 'h':
    case '?':
        help(m);
        break;
    case 'x':
        chardev_fe_write(&m->base_fe, ended, sizeof(ended) - 1);
        chardev_registry_quit(m->chr.reg);
        break;
    case 'b':
        fe_event(m->chr.fe, CHARDEV_EVENT_BREAK);
        break;
    case 'c':
        flush_queue(m);
        m->queued = 0; /* what the other one did not take was not meant for this one */
        next_focus(m);
        break;
    default:
        break;
    }
    return false;
}

static size_t mux_can_receive(void *opaque)
{
    Mux *m = opaque;

    return QUEUE_BYTES - m->queued;
}

static void mux_receive(void *opaque, const uint8_t *data, size_t size)
{
    Mux *m = opaque;

    for (size_t i = 0; i < size; i++) {
        if (command(m, data[i]) && m->queued < QUEUE_BYTES) {
            m->queue[m->queued++] = data[i];
        }
    }
    flush_queue(m);
}

static void mux_event(void *opaque, ChardevEvent event)
{
    Mux *m = opaque;

    for (int i = 0; i < CHARDEV_MUX_FRONTENDS; i++) {
        if (m->fes[i] && (event != CHARDEV_EVENT_BREAK || m->fes[i] == m->chr.fe)) {
            m->fes[i]->opened_pending = false;
            fe_event(m->fes[i], event);
        }
    }
}

static void mux_writable(void *opaque)
{
    Mux *m = opaque;

    for (int i = 0; i < CHARDEV_MUX_FRONTENDS; i++) {
        ChardevFrontend *fe = m->fes[i];
        bool locked;

        if (fe && fe->ops && __atomic_exchange_n(&fe->want_write, false, __ATOMIC_SEQ_CST) &&
            fe->ops->writable) {
            chardev_fe_lock(fe, &locked);
            fe->ops->writable(fe->opaque);
            chardev_fe_unlock(fe, locked);
        }
    }
}

static const ChardevFrontendOps mux_ops = {
    .can_receive = mux_can_receive,
    .receive = mux_receive,
    .event = mux_event,
    .writable = mux_writable,
};

void chardev_mux_run(Chardev *mux)
{
    Mux *m = (Mux *)mux;

    for (int i = 0; i < CHARDEV_MUX_FRONTENDS; i++) {
        if (m->fes[i] && m->fes[i]->opened_pending) {
            m->fes[i]->opened_pending = false;
            fe_event(m->fes[i], CHARDEV_EVENT_OPENED);
        }
    }
    if (m->told != mux->fe) {
        ChardevFrontend *old = m->told;

        m->told = mux->fe;
        fe_event(old, CHARDEV_EVENT_MUX_OUT);
        fe_event(mux->fe, CHARDEV_EVENT_MUX_IN);
    }
    flush_queue(m);
    if (m->queued < QUEUE_BYTES) {
        chardev_fe_accept_input(&m->base_fe);
    }
}

void chardev_mux_focus(Chardev *mux, ChardevFrontend *fe)
{
    mux->fe = fe;
    __atomic_store_n(&mux->input_paused, false, __ATOMIC_SEQ_CST);
}

bool chardev_mux_attach(Chardev *mux, ChardevFrontend *fe, GError **error)
{
    Mux *m = (Mux *)mux;

    for (int i = 0; i < CHARDEV_MUX_FRONTENDS; i++) {
        if (!m->fes[i]) {
            m->fes[i] = fe;
            fe->mux_index = i;
            if (!mux->fe) {
                mux->fe = fe;
            }
            return true;
        }
    }
    return error_set(error, "Chardev '%s' has no room for another user (%d at most)", mux->id,
                     CHARDEV_MUX_FRONTENDS);
}

void chardev_mux_detach(Chardev *mux, ChardevFrontend *fe)
{
    Mux *m = (Mux *)mux;

    m->fes[fe->mux_index] = NULL;
    if (m->told == fe) {
        m->told = NULL;
    }
    if (mux->fe == fe) {
        mux->fe = NULL;
        for (int i = 0; i < CHARDEV_MUX_FRONTENDS && !mux->fe; i++) {
            mux->fe = m->fes[i];
        }
        m->queued = 0;
        bh_schedule(mux->bh);
    }
}

Chardev *chardev_mux_base(Chardev *mux)
{
    return ((Mux *)mux)->base;
}

size_t chardev_mux_write(Chardev *mux, const void *data, size_t size, bool all)
{
    Mux *m = (Mux *)mux;

    if (all) {
        return chardev_fe_write_all(&m->base_fe, data, size) ? size : 0;
    }
    return chardev_fe_write(&m->base_fe, data, size);
}

static void mux_close(Chardev *mux)
{
    Mux *m = (Mux *)mux;

    for (int i = 0; i < CHARDEV_MUX_FRONTENDS; i++) {
        if (m->fes[i]) {
            m->fes[i]->chr = NULL;
        }
    }
    chardev_fe_deinit(&m->base_fe);
}

const ChardevDriver chardev_mux_driver = {
    .name = "mux",
    .instance_size = sizeof(Mux),
    .close = mux_close,
};

Chardev *chardev_mux_new(ChardevRegistry *reg, const char *id, Chardev *base)
{
    Chardev *chr = chardev_create(reg, &chardev_mux_driver, id, NULL, false, NULL);
    Mux *m = (Mux *)chr;

    bool internal = base->internal;

    m->base = base;
    base->internal = false;
    chardev_fe_init(&m->base_fe, base, NULL);
    base->internal = internal;
    chardev_fe_set_handlers(&m->base_fe, &mux_ops, m, NULL);
    return chr;
}
