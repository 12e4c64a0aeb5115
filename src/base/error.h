/*
 * Errors of the control plane.
 *
 * A function that can fail returns bool (true: done) or a pointer (NULL: failed) and takes a GError ** last,
 * which it sets exactly when it fails. Data planes return a negative errno instead. A message names what
 * failed, on which object, and why; a hint line, where there is one, names the cure. Errors are reported
 * once, by whoever stops propagating them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef RHEA_BASE_ERROR_H
#define RHEA_BASE_ERROR_H

#include <glib.h>
#include <stdbool.h>

/* The GError domain of this program; its codes are QMP's error classes. */
#define RHEA_ERROR (rhea_error_quark())
GQuark rhea_error_quark(void);

typedef enum ErrorClass {
    ERROR_CLASS_GENERIC,
    ERROR_CLASS_COMMAND_NOT_FOUND,
    ERROR_CLASS_DEVICE_NOT_ACTIVE,
    ERROR_CLASS_DEVICE_NOT_FOUND,
    ERROR_CLASS_KVM_MISSING_CAP,
    ERROR_CLASS_MIGRATION_EXPECTED,
} ErrorClass;

/* The name QMP uses for a class ("GenericError", "DeviceNotFound", ...). Never NULL. */
const char *error_class_name(ErrorClass error_class);

/* Sets *error (if error is not NULL) to a GenericError. Always returns false, so that callers can
 * "return error_set(...)". */
bool error_set(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
bool error_set_class(GError **error, ErrorClass error_class, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
/* The same with ": strerror(errnum)" appended; errnum is positive. */
bool error_set_errno(GError **error, int errnum, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
/* clang's analyzer sees one file at a time: that these return false is told here. */
#if defined(__clang_analyzer__) && !defined(RHEA_BASE_ERROR_C)
#define error_set(...)       (error_set(__VA_ARGS__), false)
#define error_set_class(...) (error_set_class(__VA_ARGS__), false)
#define error_set_errno(...) (error_set_errno(__VA_ARGS__), false)
#endif
/* Appends a hint: printed on a line of its own after the message on the command line, left out of QMP's desc.
 */
void error_append_hint(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Puts text in front of an error's message. */
void error_prefix(GError **error, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* The message without its hint, and the hint (NULL if none). Both are new strings that the caller owns. */
char *error_message(const GError *error);
char *error_hint(const GError *error);

/* Prints "PROGRAM: message" and the hint to the log's error sink. Does not free the error. */
void error_report(const GError *error);

#endif
