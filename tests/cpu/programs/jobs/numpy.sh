# numpy's own tests: its loops are chosen by the CPU's features.
# SPDX-License-Identifier: GPL-2.0-or-later
export NPY_AVAILABLE_MEM=1GB # tests that want more are left out on both sides
# timeout: 1200
core=/usr/lib/python3/dist-packages/numpy
for name in core/tests/test_umath core/tests/test_simd core/tests/test_numeric core/tests/test_scalarmath core/tests/test_half \
    core/tests/test_umath_accuracy core/tests/test_ufunc core/tests/test_einsum core/tests/test_longdouble core/tests/test_multiarray \
    linalg/tests/test_linalg fft/tests/test_pocketfft random/tests/test_generator_mt19937 random/tests/test_randomstate lib/tests/test_function_base; do
    [ -e $core/$name.py ] || { echo "no $name"; continue; }
    python3 -m pytest -q --tb=short -p no:cacheprovider --pyargs -c /dev/null "$core/$name.py" >log 2>&1
    status=$?
    cat log >&2
    echo "$name $status $(tail -n 1 log | sed 's/ in [0-9].*//; s/[0-9]* warnings*,* *//; s/, *$//')"
done
