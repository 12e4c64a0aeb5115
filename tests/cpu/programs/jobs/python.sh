# CPython's own tests: each module passes as it does on the host. One that fails is run once more: some measure time.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 1800
for name in test_int test_long test_float test_complex test_math test_cmath test_decimal test_fractions test_statistics test_random \
    test_struct test_array test_memoryview test_buffer test_bytes test_unicode test_str test_format test_strtod test_json test_re \
    test_hashlib test_hmac test_zlib test_bz2 test_lzma test_binascii test_base64 test_pickle test_marshal test_sort test_heapq \
    test_dict test_set test_list test_deque test_collections test_itertools test_functools test_generators test_coroutines \
    test_exceptions test_with test_gc test_weakref test_threading test_thread test_queue test_concurrent_futures \
    test_asyncio.test_tasks test_asyncio.test_locks test_asyncio.test_queues test_asyncio.test_futures test_signal test_mmap \
    test_select test_selectors test_fork1 test_os test_subprocess test_ctypes test_sqlite3 test_zipfile test_tarfile \
    test_datetime test_time test_compile test_ast test_dis test_capi test_faulthandler test_multiprocessing_fork test_ssl; do
    python3 -m test -q "$name" >&2
    status=$?
    if [ $status != 0 ]; then
        python3 -m test -q -w "$name" >&2
        status=$?
    fi
    echo "$name $status"
done
