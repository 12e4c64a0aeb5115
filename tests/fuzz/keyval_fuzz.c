/* Option text and the visitors behind it, with whatever a user or a client may type. SPDX-License-Identifier:
 * GPL-2.0-or-later */
#include "qapi/visitor.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = { "driver", "a", "b", "file", "c" };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* Letters that matter are more likely than bytes that do not. */
    static const char alphabet[] = "driver=,file.a.0.1bc{}[]\":0123456789KMGonf-x\\ \n\xff";
    g_autofree char *text = g_malloc(size + 1);
    for (size_t i = 0; i < size; i++) {
        text[i] = size && data[0] & 1 ? alphabet[data[i] % (sizeof(alphabet) - 1)] : (char)data[i];
    }
    text[size] = 0;
    bool is_json = false;
    g_autoptr(GError) error = NULL;
    json_object *value = keyval_parse(text, "driver", &is_json, &error);
    g_assert((value == NULL) == (error != NULL));
    if (!value) {
        return 0;
    }
    Visitor *v = visitor_new_input(value, !is_json);
    if (visit_start_struct(v, NULL, NULL)) {
        for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
            bool present = false;
            if (!visit_optional(v, names[i], &present)) {
                break;
            }
            if (present) {
                uint64_t number = 0;
                bool flag = false;
                char *string = NULL;
                json_object *any = NULL;
                size_t count = 0;
                visit_size(v, names[i], &number, NULL);
                visit_uint8(v, names[i], (uint8_t *)&number, NULL);
                visit_bool(v, names[i], &flag, NULL);
                if (visit_str(v, names[i], &string, NULL)) {
                    g_free(string);
                }
                if (visit_any(v, names[i], &any, NULL)) {
                    json_object_put(any);
                }
                if (visit_start_list(v, names[i], &count, NULL)) {
                    for (size_t n = 0; n < count; n++) {
                        visit_uint64(v, NULL, &number, NULL);
                    }
                    visit_end_list(v);
                }
            }
        }
        visit_check_struct(v, NULL);
        visit_end_struct(v);
    }
    visitor_free(v);
    json_object_put(value);
    return 0;
}
