# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
exec perl "$FILES/work.pl"
