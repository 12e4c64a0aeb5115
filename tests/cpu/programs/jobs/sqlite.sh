# SPDX-License-Identifier: GPL-2.0-or-later
# timeout: 120
set -e
sqlite3 test.db <"$FILES/work.sql"
sqlite3 test.db 'pragma integrity_check; select count(*) from entry;'
sqlite3 test.db .dump | sha256sum
sha256sum <test.db
