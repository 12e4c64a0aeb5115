# SBCL compiles each form to machine code as it is read, and moves code when it collects.
# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
exec sbcl --noinform --disable-ldb --lose-on-corruption --script "$FILES/work.lisp"
